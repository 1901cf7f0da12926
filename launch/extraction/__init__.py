"""From image files to a store of raw features: what `launch.extract` is made of."""
