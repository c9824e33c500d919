"""The web page of Backpropagate. `bp_ui.serve` starts it; `bp_ui.app` puts it together."""
