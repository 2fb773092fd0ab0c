"""How a run goes: processes, phases, steps, checkpoints to resume from."""
