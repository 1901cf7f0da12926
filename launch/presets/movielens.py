"""DICM on MovieLens with posters: the recipe of docs/experiments, where images help a little.

    python -m launch.prepare movielens --ratings=DIR --features=FILE.h5 --only_with_image \
        --combiner=mean --standardise --pca=64 --whiten --out=DATASET
    python -m launch.train --preset=movielens --dataset=DATASET --out=RUN

What images say of 1,668 movies is little beside ids and genres, so that all of it is held back:
one layer of E, images dropped in half of the samples, L2 of ids by how often they occur.
"""

model = "dicm"
images = "both"
aggregator = "multi_query_mean"
tower = (8,)
image_dropout = 0.5
dropout = 0.3

batch_size = 1024
epochs = 22
patience = 6
learning_rate = 0.003
learning_rate_decay = 0.5
decay_steps = 600

id_l2 = 1.0
