"""DICM on TikTok's vectors of videos: one recipe for new items and for known ones.

    python -m launch.prepare tiktok --source=DIR --modalities=visual,audio --standardise \
        --combiner=mean --behaviours=256 --group_by_user --split=new_items --out=DATASET
    python -m launch.train --preset=tiktok --dataset=DATASET --segment_steps=120 --out=RUN

New items are known by how alike they are to what the user liked: products of a video's vectors
with the mean of those, both a linear projection of the features and at length 1. Item ids are
dropped in half of the samples, so that a model which knows most items by their ids learns to do
without.
"""

model = "dicm"
images = "both"
aggregator = "mean"
image_products = True
unit_images = True
tower = (64,)
tower_activation = "linear"
dropout = 0.5

batch_size = 1024
epochs = 12
patience = 5
learning_rate = 0.001

id_dropout = 0.5
id_dropout_fields = ("item", "behaviours")
