"""Records to Weights & Biases: --config.report=log_to_wandb:log, in this folder."""

import wandb


def log(config, workdir):
    run = wandb.init(project='lcn_jax', dir=workdir, config=config.to_dict(), mode='offline')
    return lambda record: run.log(dict(record), step=record['step'])
