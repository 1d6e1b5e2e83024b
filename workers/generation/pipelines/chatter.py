"""Silence the model libraries: no progress bars, no hints about optional packages."""

import logging
import warnings


def hush() -> None:
    """Silence them. Call before diffusers is imported; errors are still logged."""
    for name in ("torchao", "torchao.kernel.intmm", "torch.utils._pytree", "diffusers.quantizers.torchao"):
        logging.getLogger(name).setLevel(logging.ERROR)

    warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several LoRAs on one model: meant

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.disable_progress_bar()
