"""What the numbers mean, in a line each. [paper] as published, [ours] our definition (see SPEC 4)."""

NAMES = {
    "ac": "AC", "max_ac": "Max AC", "difference": "Difference", "pt": "PT", "ftr": "FTR", "rar": "RAR", "pri": "PRI",
    "opportunity_timing": "opportunity timing", "lead": "lead, turns", "missed": "missed", "late": "late",
    "premature": "premature",
}  # fmt: skip
BETTER = {
    "ac": "↑", "max_ac": "↑", "difference": "↓", "pt": "↑", "ftr": "↓", "rar": "", "pri": "↑",
    "opportunity_timing": "↑", "lead": "", "missed": "↓", "late": "↓", "premature": "↓",
}  # fmt: skip
MEANINGS = {
    "ac": "How well predictions fit the references open at their turn, on average [paper]; silence there is 0 [ours].",
    "max_ac": "The best fit of any prediction at a turn [paper].",
    "difference": "(Max AC − AC) / AC: how much better the best prediction is than the average one [ours].",
    "pt": "Proactive timing [paper]: the fits of ready predictions inside their window, over all predictions [ours].",
    "ftr": "Fault trigger rate: ready predictions outside every fitting window [paper], over all ready ones [ours].",
    "rar": "Ready action rate: ready predictions, over all [paper]. Neither high nor low is good in itself.",
    "pri": "Proactiveness ranking index: a ranking among the methods of this table only [paper; ours in detail].",
    "opportunity_timing": "1 for a first trigger from the window's opening to its ready turn, falling to 0 after it "
    "closes, 0 if never [ours].",
    "lead": "Turns between the first trigger and the logged one: how much earlier than the human agent [ours].",
    "missed": "References never triggered, as a share [ours].",
    "late": "References first triggered after they closed, as a share [ours].",
    "premature": "References first triggered before they opened, as a share [ours].",
}
