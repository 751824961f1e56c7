"""What the numbers mean, in a line each. [paper] as published, [ours] our definition."""

TIMED = ("lead_seconds", "wait_seconds")  # shown where turns have time stamps
NAMES = {
    "utility": "utility", "execution_precision": "execution precision", "execution_recall": "execution recall",
    "execution_f1": "execution F1", "false_executions": "false executions per reference",
    "ac": "AC", "max_ac": "Max AC", "difference": "Difference", "pt": "PT", "ftr": "FTR", "rar": "RAR", "pri": "PRI",
    "opportunity_timing": "opportunity timing", "lead": "lead, turns",
    "lead_seconds": "lead, seconds", "wait_seconds": "wait, seconds", "missed": "missed", "late": "late",
    "premature": "premature", "balanced_accuracy": "balanced accuracy", "missed_needs": "missed needs",
    "false_needs": "false needs", "argument_accuracy": "argument accuracy",
}  # fmt: skip
BETTER = {
    "utility": "↑", "execution_precision": "↑", "execution_recall": "↑", "execution_f1": "↑", "false_executions": "↓",
    "ac": "↑", "max_ac": "↑", "difference": "↓", "pt": "↑", "ftr": "↓", "rar": "", "pri": "↑",
    "opportunity_timing": "↑", "lead": "", "lead_seconds": "", "wait_seconds": "↓",
    "missed": "↓", "late": "↓", "premature": "↓",
    "balanced_accuracy": "↑", "missed_needs": "↓", "false_needs": "↓", "argument_accuracy": "↑",
}  # fmt: skip
MEANINGS = {
    "utility": "The primary endpoint: what an agent is worth that executes its triggers. The timing scores of right "
    "executions, less the price of each false one, over the references: 1 at best, 0 for silence [ours].",
    "execution_precision": "Right executions, over all executions; a repeat executes nothing [ours].",
    "execution_recall": "References that an execution took, as a share [ours].",
    "execution_f1": "The harmonic mean of execution precision and recall [ours].",
    "false_executions": "False executions, over the references: what is done for nothing for each thing needed [ours].",
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
    "lead_seconds": "The same in seconds, by time stamps: a turn's moment is its end, else its start [ours].",
    "wait_seconds": "Seconds from the ready turn to the first trigger, 0 where it came before [ours].",
    "missed": "References never triggered, as a share [ours].",
    "late": "References first triggered after they closed, as a share [ours].",
    "premature": "References first triggered before they opened, as a share [ours].",
    "balanced_accuracy": "Speaking where a reference is open and silence where none is: the mean of both shares of "
    "turns [ours].",
    "missed_needs": "Silent turns, over the turns with an open reference [ours, after ProactiveBench].",
    "false_needs": "Turns with a prediction, over the turns without an open reference [ours, after ProactiveBench].",
    "argument_accuracy": "Triggers with every parameter right, over the triggers of an open action [ours].",
}
