"""What each figure of an evaluation means, in a line."""

MEANING: dict[str, str] = {
    "top1": "share of rows whose best-scored class is right",
    "top5": "share of rows whose class is among the five best-scored",
    "mean_per_class": "top-1 averaged over classes, so that rare classes count as much as frequent ones",
    "macro_F1": "harmonic mean of precision and recall, averaged over classes",
    "macro_AUC": "chance that a row of a class scores above one of another by that class, averaged over classes; 0.5 "
    "is blind",
    "log_loss": "mean of -log of the probability given to the true class; log of the number of classes is blind",
    "ECE": "mean distance between how sure answers are and how often they are right, over 15 bins of sureness",
    "unknown_class": "rows left out, since training had no row of their class",
    "old_top1": "share of rows of the classes of earlier stages that the last head gets right (new_top1: of those of "
    "its own stage); a class that it does not know is a wrong answer",
    "forgetting": "how far the last head's accuracy on the classes of an earlier stage is below the best of all heads "
    "before it, averaged over these stages (Chaudhry et al. 2018)",
    "R-precision": "share of right ones among the first R rows, R as many as there are of the row's class",
    "MAP@R": "mean of the precision at each right one of these R, wrong ones counting 0",
    "R@1": "share of queries whose best-scored candidate is a partner of theirs (R@5, R@10: one of the first 5, 10); "
    "of sets of labels the share of a row's labels that are among its k best-scored, of rows that have any",
    "median_rank": "rank of the first partner, counted from 1, of the median query; low is good",
    "mAP": "mean average precision: how far ahead of all other candidates the partners stand; of sets "
    "of labels the same of the rows that a label applies to, averaged over labels",
    "NDCG@10": "gain of the first ten answers against the best possible order; a partner gains 2, a candidate of the "
    "same label 1; with targets the gain is exp(-distance / standard deviation), with scores of pairs the pair's score",
    "AUC": "chance that a partner scores above a candidate that is none, averaged over queries; 0.5 is blind; of sets "
    "of labels that a row to which a label applies scores above one to which it does not, averaged over labels",
    "micro_F1": "F1, 2 right / (said + true), of the labels said to apply (probability 0.5 or more), all together",
    "P@1": "share of rows whose best-scored label applies (P@3, P@5: mean share of the first 3, 5)",
    "unknown": "labels of these rows of which the data do not say whether they apply; they do not count",
    "unseen_labels": "labels of these rows that training did not have, which the head cannot say; they do not count",
    "label@1": "share of queries whose best-scored candidate has their label",
    "l2": "weight of the squared norm in the probe's mean loss, the best of the sweep on validation rows",
    "graded_by": "what NDCG's gains are: pair, label, target or score; with scores of pairs a partner, in R@k and mAP, "
    "is one whose pair scores in the upper half of the range",
    "k": "neighbours that vote; not given, half the rows of a small class, and 20 at most",
    "C": "weight of the support vectors' errors, the best by cross-validation on training rows",
    "1-shot": "accuracy over episodes when each class is known by one example (5-shot: by five)",
    "1-shot_aligned": "the same with classes moved to the queries (--align transport), which takes for granted that "
    "each class has as many queries; so they have here, and in use they seldom do",
    "1-shot_aligned_uneven": "the same where one class has four times as many queries as each other",
    "mean_top1": "share of rows whose class has the nearest mean of training rows, by cosine: what learning adds to it "
    "is top1",
    "tolerance": "mean cosine of two rows of one class (Wang & Liu 2021): whether like things may lie together",
    "hardest_tenth": "share of the gradient on negatives, at the objective's temperature, that the most similar tenth "
    "of them has: .1 is even, 1 that nothing else is looked at",
    "AUC_pooled": "chance that a partner of any query scores above a candidate that is none, of any query: whether one "
    "threshold serves all queries; 0.5 is blind",
    "mae": "mean absolute error, in the target's units; of forecasts in deviations of the training series",
    "mse": "mean squared error, in the target's units squared; of forecasts in squared deviations of the training "
    "series, whose mean scores 1",
    "horizon": "steps that are forecast; the error is over all of them",
    "season": "lag that seasonal-naive repeats, the best on training windows",
    "penalty": "of the squared weights in ridge regression, the best of the sweep on validation rows",
    "rmse": "root of the mean squared error, in the target's units; large errors weigh more",
    "gm": "geometric mean of the absolute errors, in the target's units: how even the errors are",
    "r2": "share of the target's variance that is predicted; 0 is no better than its mean, 1 is perfect",
    "pearson": "linear correlation of prediction and target",
    "spearman": "correlation of their ranks: whether the order is right",
    "alignment": "mean squared distance of partners on the unit sphere, 0 to 4; low: partners coincide",
    "uniformity": "log mean exp(-2 d^2) over all pairs of rows; 0 is one point, about -4 the whole sphere; low is good",
    "effective_rank": "exp of the entropy of the centred rows' singular values: how many dimensions are in use",
    "modality_gap": "distance between the two modalities' mean unit vectors, 0 to 2; high: they lie in separate cones",
    "hubness": "skewness of how often a row is among the 10 nearest of others; above 1 few rows are answers to many",
    "temperature": "divides the similarities in the objective; low makes it look at the hardest negatives alone",
    "offset_cosine": "cosine of b - a with d - c, the mean over analogies a:b::c:d; 1 is parallel, 0 is blind",
    "unknown_words": "names in the file that the input knows no row of; what needs them is left out",
    "skipped": "analogies that are left out, since a word of theirs is not known",
}

LOW_IS_GOOD = frozenset(
    {"val_loss", "log_loss", "ECE", "median_rank", "forgetting", "mae", "mse", "rmse", "gm", "alignment", "uniformity"}
    | {"modality_gap", "hubness"}
)
"""Figures of which the lower of two is the better one."""
