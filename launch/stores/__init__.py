"""What can be done with image stores: what `launch.store` is made of."""
