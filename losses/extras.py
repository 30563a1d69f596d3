"""What a loss may ask for besides the embeddings, by the keyword-only arguments of its `forward`."""

EXTRAS = {
    "labels": "`[B]` int64, the class of each row; -1 where a row has none",
    "label_sets": "`[B, C]` float, 1 for each class that applies, else 0; NaN where that is not known",
    "levels": "`[C, L]` int64, of each class the number of its name at each level of its path; -1 behind its end; None "
    "where labels have no levels",
    "features": "`{name: [B, F]}`, by modality what its encoder makes of the first view, before the head; without "
    "gradient, of all modalities whatever the term looks at; NaN in rows without it",
    "targets": "`[B, K]` float, numbers to predict or to order rows by; NaN where a row has none",
    "predictions": "`[B, K]` float, from the head that is trained jointly",
    "stands_for": "`[K]` float, for how many labels each column of the predictions counts, where a step has a sample "
    "of them (`labels_per_step`): 1 of those that apply to any row; None where all labels are there",
    "present": "`{name: [B] bool}`, False where a row lacks that input (its embedding is then meaningless)",
    "sample_id": "`[B]` int64, the row's number in the training data",
    "repeats": "`[B]` int64, equal for rows that share an image, a recording or a text; None where no two rows do",
    "groups": "`[B]` int64, the number of each row's value of `data.group`; -1 of rows without one that training rows "
    "have; None without `data.group`",
    "weights": "`[B]` float, the factor of each row's term, 1 on average; None where all count alike",
    "negatives": "`{name: [N, D]}`, rows of the names in the term's `negatives`, which are that and nothing else",
    "contents": "`{name: [B] int64}`, a number for each cell, the same for cells of equal content, negatives' too; "
    "None unless a term has negatives",
    "keys": "`{name: [B, E]}`, embeddings of the same views by a second model (`train.second`), without gradient; E is "
    "another width than D where that model has one",
    "steps": "`{name: ([B, T, D], [B, T] bool)}`, embeddings per step with their mask: of a time, a token or a place",
    "states": "`{name: [B, T, F]}`, what the encoder makes of each step, before the head; without gradient",
    "layers": "`{name: [B, L, F]}`, means over tokens of the hidden states, before the head: what enters the first "
    "layer of a text encoder, then what each layer gives; with gradient",
    "key_layers": "`{name: [B, L, F]}`, the same by the second model (`train.second`), without gradient",
    "attention": "`{name: ([B, P, L, H], [B, P] bool)}`, by how much a token reads another in each layer and head, of "
    "all P pairs of tokens, with their mask; with gradient",
    "head": "`[N, D] -> [N, K]`, the head that is trained jointly, for rows that a loss makes of those of one input",
    "mixed": "`{name: ([B] int64, [])}`, of views that are mixtures of rows of the batch: the row that each has its "
    "lesser part of, and the share of its own; None where there are none, as in validation",
    "progress": "float in [0, 1), the share of the run's steps that are done; 1 in validation",
    "originals": "`{name: [B, P]}`, what the encoder was given of each view, as flat numbers of one scale: cells, "
    "pixels, steps; of a text the numbers of its tokens; NaN where a number is missing, or the row",
    "masked": "`{name: ([B, K, F], [B, K] int64)}`, of the first view of a text, what the encoder makes of the places "
    "of K tokens that it was not shown, and which they were; -1 where a row has fewer",
    "generator": "`torch.Generator`, from which all that is random is drawn; it may be on another device than the rows",
}
"""What a loss may ask for besides the embeddings, and what each name stands for."""

OF_SECOND = frozenset({"keys", "key_layers"})
"""Those that a second model gives."""
