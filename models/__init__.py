"""Click models built from parts that can be passed in."""

import amstf  # noqa: F401  Chooses the Keras that tf_keras stands for, before anything loads it.
from amstf.data import input_specs
from models.aggregator import Aggregator
from models.aggregators import AGGREGATORS, ConcatPooling, MaxPooling, MeanPooling, SumPooling
from models.attention import AttentivePooling, MultiQueryAttentivePooling
from models.bilinear import BILINEAR, BilinearInteraction
from models.blocks import Mlp, image_tower
from models.building import build
from models.cross_mixture import CrossMixture
from models.cross_network import CrossNetwork, CrossNetworkV2
from models.dcn import CrossAndDeep, Dcn, DcnV2
from models.deepfm import DeepFm, DeepFmLayer
from models.dice import Dice
from models.dicm import BASE_NETWORKS, Dicm
from models.din import Din, DinEmbedding
from models.embedding_mlp import EmbeddingMlp
from models.factorization_machine import FactorizationMachine
from models.fibinet import FiBiNet, FiBiNetLayer
from models.field_embedding import FieldEmbedding, FieldLayout
from models.field_interaction import FieldInteraction
from models.heads import LabelHeads, PredictionHead
from models.id_embedding import IdEmbedding
from models.id_regularization import IdRegularization
from models.inner_products import InnerProducts
from models.logistic_regression import IdWeights, LogisticHead, LogisticRegression
from models.mutual_learning import AGREEMENTS, MutualLearning
from models.outer_product import OuterProduct
from models.pnn import PRODUCTS, Pnn, PnnLayer
from models.sample_dropout import SampleDropout
from models.senet import Senet
from models.two_tower import InnerProduct, TwoTower

__all__ = [
    "AGGREGATORS",
    "AGREEMENTS",
    "BASE_NETWORKS",
    "BILINEAR",
    "PRODUCTS",
    "Aggregator",
    "AttentivePooling",
    "BilinearInteraction",
    "ConcatPooling",
    "CrossAndDeep",
    "CrossMixture",
    "CrossNetwork",
    "CrossNetworkV2",
    "Dcn",
    "DcnV2",
    "DeepFm",
    "DeepFmLayer",
    "Dice",
    "Dicm",
    "Din",
    "DinEmbedding",
    "EmbeddingMlp",
    "FactorizationMachine",
    "FiBiNet",
    "FiBiNetLayer",
    "FieldEmbedding",
    "FieldInteraction",
    "FieldLayout",
    "IdEmbedding",
    "IdRegularization",
    "IdWeights",
    "InnerProduct",
    "InnerProducts",
    "LabelHeads",
    "LogisticHead",
    "LogisticRegression",
    "MaxPooling",
    "MeanPooling",
    "Mlp",
    "MultiQueryAttentivePooling",
    "MutualLearning",
    "OuterProduct",
    "Pnn",
    "PnnLayer",
    "PredictionHead",
    "SampleDropout",
    "Senet",
    "SumPooling",
    "TwoTower",
    "build",
    "image_tower",
    "input_specs",
]
