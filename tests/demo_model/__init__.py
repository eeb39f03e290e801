"""How the demo's checkpoint and manifest were made, and how their videos are measured.

    python -m tests.demo_model.train vae WORK              # torch and diffusers: requirements.txt
    python -m tests.demo_model.train transformer WORK
    python -m tests.demo_model.train export WORK vidgen_dist/demo/model
    vidgen manifest build tests/demo_model/manifest.csv vidgen_dist/demo/manifest.parquet
    python -m tests.demo_model.evaluate                    # the table of the model card

`clips` draws the clips of the training, `measure` finds out from frames alone what they show, `evaluate`
renders prompts that training never saw and counts.
"""
