"""Command lines: wf, wf-train, wf-convert, wf-serve, wf-eval."""

import logging

# transformers imports torchao wherever that is installed, which then tells about each of its
# libraries that does not fit the machine, in front of whatever we have to say.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
