"""Learning while awake: penalties on local weights, and how errors get to the layers."""
