"""Every kind of mistake in a suite file, with what the one-line error must say."""

from __future__ import annotations

GOOD = """
title = "Good"
[task]
epochs = 2
[matrix]
seed = [0, 1]
label_noise = [0, 0.5]
[[optimizer]]
name = "sgd"
[[optimizer]]
name = "sam"
rho = 0.1
[measure]
hvps = 20
examples = 64
"""


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


# name -> (text, what the message must hold, in order)
BAD: dict[str, tuple[str, tuple[str, ...]]] = {
    "syntax": (changed("epochs = 2", "epochs = "), ("not valid TOML", "line 4")),
    "empty file": ("", ("no [matrix]", "seed = [0, 1, 2]")),
    "key twice": (changed("epochs = 2", "epochs = 2\nepochs = 3"), ("not valid TOML", "line 5")),
    "unknown table": (changed("[task]", "[tasks]"), ("unknown key 'tasks'", "did you mean 'task'")),
    "unknown top key": (
        changed("title", "titel"),
        ("unknown key 'titel'", "did you mean 'title'", "Allowed: baseline"),
    ),
    "unknown task key": (changed("epochs", "epoch"), ("[task]", "unknown key 'epoch'", "'epochs'")),
    "unknown axis": (
        changed("label_noise", "label_nois"),
        ("[matrix]", "unknown axis 'label_nois'", "'label_noise'"),
    ),
    "unknown measure key": (changed("hvps", "hvp"), ("[measure]", "unknown key 'hvp'", "'hvps'")),
    "unknown optimizer": (
        changed('"sam"', '"samm"'),
        ("[[optimizer]] 2 'samm'", "unknown optimizer 'samm'", "'sam'"),
    ),
    "unknown parameter": (
        changed("rho", "rhoo"),
        ("[[optimizer]] 2 'sam'", "unknown parameter 'rhoo'", "'rho'", "weight_decay"),
    ),
    "unknown dataset": (
        changed("epochs = 2", 'dataset = "digit"'),
        ("[task]", "unknown dataset 'digit'", "'digits'"),
    ),
    "unknown model": (
        changed("seed = [0, 1]", 'model = ["mlp", "mpl"]'),
        ("[matrix]", "unknown model 'mpl'", "'mlp'"),
    ),
    "unknown measure": (
        changed("hvps = 20", 'measures = ["spectra"]'),
        ("[measure]", "unknown measure 'spectra'", "'spectrum'"),
    ),
    "unknown baseline": (
        'baseline = "sma"\n' + GOOD,
        ("baseline", "unknown label 'sma'", "did you mean 'sam'", "sgd"),
    ),
    "negative rho": (changed("rho = 0.1", "rho = -0.1"), ("[[optimizer]] 2 'sam'", "rho must be", "-0.1")),
    "negative rho, swept": (changed("rho = 0.1", "rho = [0.1, -0.1]"), ("rho must be", "-0.1")),
    "wrong type of rho": (changed("rho = 0.1", 'rho = "big"'), ("'sam'", "rho", "'big'")),
    "rho a date": (changed("rho = 0.1", "rho = 2024-01-01"), ("'sam'", "rho must be", "2024-01-01")),
    "rho not finite": (changed("rho = 0.1", "rho = nan"), ("'sam'", "rho must be a finite number")),
    "rho empty": (changed("rho = 0.1", "rho = []"), ("'sam'", "rho is an empty list")),
    "negative lr": (changed("rho = 0.1", "lr = -1.0"), ("'sam'", "lr must be a number > 0", "-1.0")),
    "momentum of one": (
        changed("rho = 0.1", "momentum = 1"),
        ("momentum must be a number >= 0 and < 1", "1"),
    ),
    "multiplier of zero": (changed("rho = 0.1", "epochs_multiplier = 0"), ("epochs_multiplier must be", "0")),
    "multiplier of a word": (changed("rho = 0.1", 'epochs_multiplier = "2"'), ("epochs_multiplier", "'2'")),
    "noise of one": (
        changed("[0, 0.5]", "[0, 1.0]"),
        ("[matrix] label_noise must be a number >= 0 and < 1", "1.0"),
    ),
    "noise of a word": (changed("[0, 0.5]", '"half"'), ("label_noise must be a number", "'half'")),
    "true for an int": (changed("epochs = 2", "epochs = true"), ("epochs must be a whole number", "True")),
    "true for a float": (changed("[0, 0.5]", "[false]"), ("label_noise must be a number", "False")),
    "true for a seed": (changed("seed = [0, 1]", "seed = true"), ("seed must be a whole number", "True")),
    "float for an int": (changed("epochs = 2", "epochs = 2.5"), ("epochs must be a whole number", "2.5")),
    "string for an int": (changed("epochs = 2", 'epochs = "2"'), ("epochs must be a whole number", "'2'")),
    "zero epochs": (changed("epochs = 2", "epochs = 0"), ("epochs must be a whole number >= 1", "0")),
    "negative seed": (changed("[0, 1]", "[0, -1]"), ("seed must be a whole number from 0", "-1")),
    "enormous seed": (
        changed("[0, 1]", "99999999999"),
        ("seed must be a whole number", "99999999999"),
    ),
    "enormous epochs": (changed("epochs = 2", "epochs = 60000000"), ("epochs must be <= 1000000", "slip")),
    "enormous hvps": (changed("hvps = 20", "hvps = 20000000"), ("hvps must be <= 1000000",)),
    "enormous threads": (changed("epochs = 2", "threads = 4096"), ("threads must be <= 1024",)),
    "enormous number": (changed("epochs = 2", "epochs = 0x" + "f" * 9000), ("epochs must be", "digits")),
    "enormous matrix": (
        changed("seed = [0, 1]", f"seed = {list(range(400))}\nbatch_size = {list(range(1, 400))}"),
        ("[matrix]", "more than 100000", "split the suite"),
    ),
    "enormous sweep": (
        changed("rho = 0.1", "\n".join(f"p{k} = {list(range(40))}" for k in range(4))),
        ("'sam'", "more than 100000"),
    ),
    "too few hvps": (changed("hvps = 20", "hvps = 1"), ("[measure] hvps must be a whole number >= 10", "1")),
    "wrong choice": (
        changed("epochs = 2", 'schedule = "cosin"'),
        ("[task] schedule must be one of 'constant', 'cosine'", "'cosin'"),
    ),
    "nan in the task": (changed("epochs = 2", "lr = nan"), ("[task] lr must be a number > 0", "nan")),
    "list in the task": (changed("epochs = 2", "epochs = [2, 3]"), ("[task] epochs must be", "[2, 3]")),
    "empty axis": (changed("[0, 0.5]", "[]"), ("[matrix] label_noise is an empty list",)),
    "empty matrix": (changed("seed = [0, 1]\nlabel_noise = [0, 0.5]", ""), ("[matrix] is empty", "seed")),
    "no matrix": (
        changed("[matrix]\nseed = [0, 1]\nlabel_noise = [0, 0.5]", ""),
        ("no [matrix]", "seed = [0, 1, 2]"),
    ),
    "matrix a number": (
        "matrix = 3\n" + changed("[matrix]\nseed = [0, 1]\nlabel_noise = [0, 0.5]", ""),
        ("[matrix] must be a table", "3"),
    ),
    "task a number": ("task = 3\n" + changed("[task]\nepochs = 2\n", ""), ("[task] must be a table", "3")),
    "empty measures": (changed("hvps = 20", "measures = []"), ("[measure] measures is an empty list",)),
    "measures a string": (
        changed("hvps = 20", 'measures = "spectrum"'),
        ("must be a list of strings",),
    ),
    "no optimizers": (
        GOOD.split("[[optimizer]]")[0],
        ("no [[optimizer]] tables", "give at least one"),
    ),
    "one bracket": (
        GOOD.split("[[optimizer]]")[0] + '[optimizer]\nname = "sgd"\n',
        ("no [[optimizer]] tables", "two brackets"),
    ),
    "optimizer without name": (changed('name = "sam"\n', ""), ("[[optimizer]] 2", "name is missing")),
    "name a number": (changed('"sam"', "3"), ("[[optimizer]] 2", "name")),
    "same label twice": (
        changed('name = "sam"\nrho = 0.1', 'name = "sgd"'),
        ("[[optimizer]] 2 'sgd'", "label 'sgd' is already used by [[optimizer]] 1", "its own label"),
    ),
    "same value twice": (changed("rho = 0.1", "rho = [0.1, 0.1]"), ("label 'sam rho=0.1' is already used",)),
    "label a number": (changed("rho = 0.1", "label = 3"), ("'sam'", "label must be a string", "3")),
    "label with an escape": (
        changed("rho = 0.1", 'label = "\\u001b[2J"'),
        ("label must be at most 120 printable characters", "\\x1b"),
    ),
    "two lines of title": (changed('"Good"', '"Good\\nbad"'), ("title must be one line of text",)),
    "title a number": (changed('"Good"', "3"), ("title must be one line of text", "3")),
    "own lr against an axis": (
        changed("rho = 0.1", "lr = 0.05").replace("label_noise = [0, 0.5]", "lr = [0.1, 0.2]"),
        ("[[optimizer]] 2 'sam'", "its own lr would hide the lr axis"),
    ),
    "measure object in a file": (changed('"sam"\nrho = 0.1', '"universal"'), ("'universal'", "object")),
    "module that is not there": (
        changed('"sam"\nrho = 0.1', '"no_such_module_here:Mine"'),
        ("'no_such_module_here:Mine'", "can't import", "installed"),
    ),
    "class that is not there": (
        changed('"sam"\nrho = 0.1', '"sharpbench.optim:Mine"'),
        ("'sharpbench.optim:Mine'", "has no 'Mine'"),
    ),
    "class that is no optimizer": (
        changed('"sam"\nrho = 0.1', '"collections:OrderedDict"'),
        ("'collections:OrderedDict'", "must be a subclass of torch.optim.Optimizer"),
    ),
}
