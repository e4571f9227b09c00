"""Times training steps of PyTorch + PEFT; the other side of client-sdk/benches/pytorch.rs.

    python3 train_step.py MODEL ROWS COLS TARGETS CLASSES THREADS STEPS [DEVICE BASE]

LoRA of rank 8 and AdamW, SDPA attention, eager; the base in f32 on a CPU, or as BASE (f32, bf16) on DEVICE (cpu,
cuda, mps), its adapters in f32. A folder without a `config.json` is SmolLM2-135M as a
GGUF file: its sizes are below and its weights drawn, since a step takes as long whatever they are. CLASSES is 0 for next tokens. Prints one line of JSON:
seconds of each step by the clock and on the processor, and the most memory the process had, or on CUDA what the
card had in use after the steps.
"""

import json
import os
import sys
import time

model_dir, rows, cols, targets, classes, threads, steps = sys.argv[1:8]
device, base = sys.argv[8:] or ("cpu", "f32")
rows, cols, classes, threads, steps = map(int, (rows, cols, classes, threads, steps))
os.environ["OMP_NUM_THREADS"] = str(threads)
os.environ["HF_HUB_OFFLINE"] = "1"

import peft
import torch
import transformers

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(threads)
torch.manual_seed(1)

dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[base]
if classes:
    load, more = transformers.AutoModelForSequenceClassification, {"num_labels": classes}
else:
    load, more = transformers.AutoModelForCausalLM, {}
if os.path.exists(os.path.join(model_dir, "config.json")):
    model = load.from_pretrained(model_dir, dtype=dtype, attn_implementation="sdpa", **more)
else:
    sizes = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
        rope_theta=100000.0, rms_norm_eps=1e-5, tie_word_embeddings=True, use_cache=False)
    model = load.from_config(sizes, dtype=dtype, attn_implementation="sdpa")
config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets.split(","),
                         task_type="SEQ_CLS" if classes else "CAUSAL_LM")
model = peft.get_peft_model(model, config)
model.to(device)
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4)
wall, cpu = [], []
for step in range(steps):
    ids = torch.randint(5, model.config.vocab_size - 5, (rows, cols), device=device)
    labels = torch.randint(0, classes, (rows,), device=device) if classes else ids
    clock, used = time.perf_counter(), time.process_time()
    loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    assert torch.isfinite(loss.detach())
    wall.append(time.perf_counter() - clock)
    cpu.append(time.process_time() - used)
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0])
if device == "cuda":
    free, all_of_it = torch.cuda.mem_get_info()
    peak = (all_of_it - free) // 1024
print(json.dumps({"wall": wall, "cpu": cpu, "peak_kib": peak, "trained": sum(p.numel() for p in trained)}))
