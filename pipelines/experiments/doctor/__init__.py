"""Why a run does not learn: from what it wrote, its data, and a few batches through its weights."""
