"""bench_torch.py MODEL [--k 10] [--image 252] [--repeats 10] [--device cuda] - the case of bench_reader in PyTorch's transformers.

K prompts [system, z image, z caption, query image, question] of MODEL's sizes with random weights, as one batch of one forward
pass whose last position is scored: how the method's released code works, which has no cache of prefixes. Prints the median.
No part of the product: bench/gpu.sh runs it where python3 has torch and transformers.
"""

import argparse
import inspect
import time

import torch
from transformers import AutoConfig, Qwen2VLForConditionalGeneration


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--k", type=int, default=10)
    p.add_argument("--image", type=int, default=252)
    p.add_argument("--text", type=int, default=80, help="tokens of a prompt that are no picture's")
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument("--device", default="cuda")
    a = p.parse_args()

    config = AutoConfig.from_pretrained(a.model)
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(a.device):
        model = Qwen2VLForConditionalGeneration(config).eval()
    torch.set_default_dtype(torch.float32)

    side = round(a.image / 28) * 2  # patches
    tokens = side * side // 4
    pad = config.image_token_id
    begin, end = config.vision_start_token_id, config.vision_end_token_id
    third = a.text // 3
    # ids below the special ones; what they say does not matter
    row = [5] * third + [begin] + [pad] * tokens + [end] + [6] * third + [begin] + [pad] * tokens + [end] + [7] * (a.text - 2 * third - 4)
    ids = torch.tensor([row] * a.k, device=a.device)
    pixels = torch.randn(2 * a.k * side * side, 3 * 2 * 14 * 14, device=a.device, dtype=torch.bfloat16)
    grid = torch.tensor([[1, side, side]] * (2 * a.k), device=a.device)
    inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, image_grid_thw=grid, logits_to_keep=1, use_cache=False)

    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:  # transformers 5: where pictures stand
        inputs["mm_token_type_ids"] = (ids == pad).int()

    def wait():
        if a.device.startswith("cuda"):
            torch.cuda.synchronize()

    times = []
    with torch.inference_mode():
        for i in range(-2, a.repeats):
            wait()
            start = time.perf_counter()
            model(**inputs).logits.float().log_softmax(-1)
            wait()
            if i >= 0:
                times.append(time.perf_counter() - start)
    times.sort()
    print(f"PyTorch {torch.__version__}, K={a.k} {a.image} px, {len(row)} tokens a prompt: {1000 * times[len(times) // 2]:.2f} ms median, "
          f"{1000 * times[0]:.2f} best")


if __name__ == "__main__":
    main()
