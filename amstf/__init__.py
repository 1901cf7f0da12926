"""amstf: click models that see images, with the images on the parameter servers (AMS)."""
