"""Click models built from parts that can be passed in."""

import amstf  # noqa: F401  Chooses the Keras that tf_keras stands for, before anything loads it.
from amstf.data import input_specs
from models.aggregator import Aggregator
from models.aggregators import AGGREGATORS, ConcatPooling, MaxPooling, MeanPooling, SumPooling
from models.attention import AttentivePooling, MultiQueryAttentivePooling
from models.blocks import Mlp, image_tower
from models.building import build
from models.dice import Dice
from models.dicm import BASE_NETWORKS, Dicm
from models.din import Din, DinEmbedding
from models.embedding_mlp import EmbeddingMlp
from models.heads import LabelHeads, PredictionHead
from models.id_embedding import IdEmbedding
from models.id_regularization import IdRegularization
from models.logistic_regression import IdWeights, LogisticHead, LogisticRegression
from models.mutual_learning import AGREEMENTS, MutualLearning
from models.sample_dropout import SampleDropout
from models.two_tower import InnerProduct, TwoTower

__all__ = [
    "AGGREGATORS",
    "AGREEMENTS",
    "BASE_NETWORKS",
    "Aggregator",
    "AttentivePooling",
    "ConcatPooling",
    "Dice",
    "Dicm",
    "Din",
    "DinEmbedding",
    "EmbeddingMlp",
    "IdEmbedding",
    "IdRegularization",
    "IdWeights",
    "InnerProduct",
    "LabelHeads",
    "LogisticHead",
    "LogisticRegression",
    "MaxPooling",
    "MeanPooling",
    "Mlp",
    "MultiQueryAttentivePooling",
    "MutualLearning",
    "PredictionHead",
    "SampleDropout",
    "SumPooling",
    "TwoTower",
    "build",
    "image_tower",
    "input_specs",
]
