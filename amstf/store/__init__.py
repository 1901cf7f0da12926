"""Image stores: HDF5 files with the raw features of images, spread over servers by id."""

from amstf.store.buckets import NUM_BUCKETS, bucket_of, server_of
from amstf.store.image_store import ImageStore
from amstf.store.image_store_writer import ImageStoreWriter

__all__ = ["NUM_BUCKETS", "ImageStore", "ImageStoreWriter", "bucket_of", "server_of"]
