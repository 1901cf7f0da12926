"""DICM on TikTok's vectors of videos: one recipe for new items and for known ones.

    python -m launch.prepare tiktok --source=DIR --modalities=visual,audio --standardise \
        --combiner=mean --split=new_items --out=DATASET
    python -m launch.train --preset=tiktok --dataset=DATASET --segment_steps=120 --out=RUN

Products of a video's vectors with the mean of those that the user liked are what new items are
known by. Item ids are dropped in half of the samples, so that a model which knows most items by
their ids learns to do without.
"""

model = "dicm"
images = "both"
aggregator = "mean"
image_products = True
tower = (64,)
tower_dropout = 0.3
dropout = 0.5

batch_size = 1024
epochs = 12
patience = 5
learning_rate = 0.001

id_dropout = 0.5
id_dropout_fields = ("item", "behaviours")
