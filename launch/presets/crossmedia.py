"""The example network of CrossMedia: two model servers, an E for each side, ReLU.

CrossMedia (x-deeplearning, 2018) is the AMS of "Image Matters" as it was published, and this the
network that came with it: ids of 16 dimensions in hash tables and dense features as
`launch.prepare crossmedia` stores them, sum pooling of the user's images, E of widths 256, 64, 12
once for the user's images and once for the ad's, an MLP of 100 and 10, Adam at 0.0005 for all.

Each E has a parameter server of its own, so a cluster has at least two (--cluster=2x2);
--store_servers= leaves both to all of them. Requests of workers that meet are embedded once, as
CrossMedia's "unique cache" does, but none waits for a worker that is lost.
"""

model = "dicm"
images = "both"
aggregator = "sum"
hidden = (100, 10)
tower = (256, 64, 12)
activation = "relu"

separate_towers = True
store_servers = ("user_images:0", "ad_images:1")
merge = "async"

learning_rate = 0.0005
