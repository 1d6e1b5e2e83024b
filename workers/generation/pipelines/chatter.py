"""Keeps the model libraries from talking over our logs: no progress bars, no advice about what is not installed."""

import logging
import warnings


def hush() -> None:
    """Call before diffusers is imported; errors still come through."""
    for name in ("torchao", "torchao.kernel.intmm", "torch.utils._pytree", "diffusers.quantizers.torchao"):
        logging.getLogger(name).setLevel(logging.ERROR)

    warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several LoRAs on one model: meant

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.disable_progress_bar()
