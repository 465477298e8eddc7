export MODEL_NAME="runwayml/stable-diffusion-v1-5"
accelerate launch train_dreambooth_lora.py \
  --pretrained_model_name_or_path=$MODEL_NAME \
  --instance_data_dir="/data/me" \
  --class_data_dir="/data/class" \
  --output_dir="/out" \
  --with_prior_preservation --prior_loss_weight=1.0 \
  --instance_prompt="a photo of sks person" \
  --class_prompt="a photo of a person" \
  --resolution=512 \
  --train_batch_size=2 \
  --gradient_accumulation_steps=1 \
  --learning_rate=1e-4 \
  --lr_scheduler="constant" --lr_warmup_steps=0 \
  --num_train_epochs=50 \
  --rank=8 --gradient_checkpointing --use_8bit_adam --mixed_precision="fp16"
