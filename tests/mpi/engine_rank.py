"""One rank of the transformers engine, without Triton: python engine_rank.py MODEL_DIR.

Prints "loaded", and "stopped" after a clean end. The leader stops when its standard input ends.
"""

from __future__ import annotations

import logging
import select
import sys

from trt_tokenizers.engines.transformers.engine import TransformersEngine

if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("transformers").setLevel(
        logging.CRITICAL
    )  # it logs gloo's errors with a traceback
    engine = TransformersEngine({"model_dir": sys.argv[1], "device": "cpu", "max_seq_len": "512"})
    sys.stdout.write("loaded\n")
    sys.stdout.flush()
    if engine.leads:
        while engine.died is None and not select.select([sys.stdin], [], [], 0.1)[0]:
            pass
        if engine.died is not None:
            sys.exit(engine.died)
        engine.stop()
    else:
        engine.follow()
    sys.stdout.write("stopped\n")
