"""The strategy of a cluster whose parameter servers hold and embed images."""

from amstf.strategy.advanced_model_server import AdvancedModelServerStrategy
from amstf.strategy.coordinator import ScheduledBatches
from amstf.strategy.evaluation_data import check_evaluation_data
from amstf.strategy.model_servers import ModelServers, ServerGroup
from amstf.strategy.sharded_tables import num_split, whole_weights

__all__ = [
    "AdvancedModelServerStrategy",
    "ModelServers",
    "ScheduledBatches",
    "ServerGroup",
    "check_evaluation_data",
    "num_split",
    "whole_weights",
]
