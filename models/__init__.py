"""Click models built from parts that can be passed in."""

import amstf  # noqa: F401  Chooses the Keras that tf_keras stands for, before anything loads it.
from amstf.data import input_specs
from models.aggregator import Aggregator
from models.aggregators import ConcatPooling, MaxPooling, SumPooling
from models.attention import AttentivePooling, MultiQueryAttentivePooling
from models.blocks import Mlp, PredictionHead, image_tower
from models.building import build
from models.dice import Dice
from models.dicm import Dicm
from models.embedding_mlp import EmbeddingMlp
from models.id_embedding import IdEmbedding

__all__ = [
    "Aggregator",
    "AttentivePooling",
    "ConcatPooling",
    "Dice",
    "Dicm",
    "EmbeddingMlp",
    "IdEmbedding",
    "MaxPooling",
    "Mlp",
    "MultiQueryAttentivePooling",
    "PredictionHead",
    "SumPooling",
    "build",
    "image_tower",
    "input_specs",
]
