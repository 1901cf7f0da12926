"""The training of the paper: DICM that asks by image and ids, Adam, two passes.

"Image Matters" (arXiv 1711.06505), section 5: MultiQueryAttentivePooling over the images of
behaviours, PReLU, Adam at 0.001 times 0.9 every 24,000 batches, two passes over the data, E of
widths 256, 64 and 12, and the adaptive regularisation of DIN (arXiv 1706.06978, section 4.2).

The factor of that L2 is ours, a value to tune from: the paper names none. Copy this file, change
it, and train with --preset=PATH.py.
"""

model = "dicm"
images = "both"
aggregator = "multi_query"
tower = (256, 64, 12)

epochs = 2
learning_rate = 0.001
learning_rate_decay = 0.9
decay_steps = 24_000

id_l2 = 0.01
