"""The strategy of a cluster whose parameter servers hold and embed images."""

from amstf.strategy.advanced_model_server import AdvancedModelServerStrategy
from amstf.strategy.coordinator import ScheduledBatches
from amstf.strategy.model_servers import ModelServers, ServerGroup

__all__ = ["AdvancedModelServerStrategy", "ModelServers", "ScheduledBatches", "ServerGroup"]
