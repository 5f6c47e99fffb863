"""Records to MLflow: --config.report=log_to_mlflow:log, in this folder."""

import mlflow


def log(config, workdir):
    mlflow.set_tracking_uri(f'file:{workdir}/mlruns')
    mlflow.start_run(run_name=workdir)
    mlflow.log_dict(config.to_dict(), 'config.json')
    return lambda record: mlflow.log_metrics(
        {name: value for name, value in record.items() if value is not None}, record['step']
    )
