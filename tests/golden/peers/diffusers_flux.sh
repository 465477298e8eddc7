accelerate launch train_dreambooth_lora_flux.py \
  --pretrained_model_name_or_path=/m/flux --instance_data_dir=dog --instance_prompt="a" --rank=16
