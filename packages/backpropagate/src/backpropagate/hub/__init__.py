"""What an upload takes along, the model card, and the push."""
