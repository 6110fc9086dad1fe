"""Names of settings and values in other programs, and the setting of hymt-batch that does the job. Data only.

Names of transformers, vLLM, accelerate, fairseq, and of the command lines of translation scripts.
tests/test_unknown_settings.py checks that every override below is valid.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What to write instead of some names."""

    names: str  # words, in lower case with `_`; with a dot: the whole key
    override: str = ""  # what to write, of valid overrides; {value} stands for the user's value; "": no setting does it
    example: str = ""  # the override to show if the user's value does not fit; "": `override` has no {value}
    about: str = ""  # a clause after the override, or sentences where there is none


_DECODING = "decode=greedy takes the most likely token, and decode=recommended samples as the model card says."

ANSWERS = (
    # languages
    Answer(
        "lang language target target_lang target_language tgt tgt_language to to_lang lang_to dest dst dst_lang "
        "output_lang out_lang tl locale target_locale targetlang",
        "tgt_lang={value}",
        "tgt_lang=fr",
        "the language to translate into",
    ),
    Answer(
        "source_lang source_language src src_language from from_lang lang_from input_lang in_lang sl source_locale "
        "sourcelang",
        "src_lang={value}",
        "src_lang=en",
        "the language of the input",
    ),
    Answer("lang_pair language_pair langs lp pair direction", "src_lang=en tgt_lang=fr", about="the two languages"),
    Answer(
        "languages target_langs target_languages tgt_langs",
        about="Several languages are a sweep: hymt-batch translate -m tgt_lang=fr,de.",
    ),
    Answer(
        "lang_field lang_column language_field language_column tgt_lang_column target_lang_field target_lang_column "
        "source.lang source.lang_field source.tgt_lang source.language source.target_lang",
        "source.tgt_lang_field={value}",
        "source.tgt_lang_field=to",
        "the field with the target language of each row",
    ),
    Answer(
        "src_lang_column source_lang_field source_lang_column source.src_lang source.source_lang",
        "source.src_lang_field={value}",
        "source.src_lang_field=from",
        "the field with the source language of each row",
    ),
    # inputs and outputs
    Answer(
        "input inputs input_file input_files input_path input_dir in infile file files path data data_path data_dir "
        "data_files dataset dataset_name corpus source_file src_file src_path filename file_name i f source.file "
        "source.files source.input source.dir source.folder",
        "source.path={value}",
        "source.path=corpus.txt",
        "a file, a folder, a glob, or a list such as [a.txt,b.txt]",
    ),
    Answer(
        "output output_file output_path output_folder out outfile out_file out_dir outdir out_path save_dir save_path "
        "results result_dir results_dir target_file tgt_file dest_dir destination o write.path write.output write.file "
        "write.dir write.folder write.output_dir write.out",
        "output_dir=outputs name=NAME",
        about="the translations are in output_dir/NAME/translated, under the names of the inputs or by write.name",
    ),
    Answer("job_name run_name experiment experiment_name run_id job_id project", "name={value}", "name=NAME"),
    Answer(
        "text_column text_key column columns col field content_field content_key input_column source_column "
        "source.column source.field source.text source.key text_field",
        "source.text_field={value}",
        "source.text_field=body",
        "the field or column to translate",
    ),
    Answer("input_format data_format source.type source.file_type filetype file_type", "source.format={value}",
           "source.format=jsonl", "only where the extension does not say it"),
    Answer("output_format out_format save_format write.type", "write={value}", "write=jsonl", "null: as the input"),
    Answer("sep separator delim source.sep", "source.delimiter={value}", "source.delimiter=tab"),
    Answer("encoding charset input_encoding file_encoding codec", "source.encoding={value}", "source.encoding=utf-16"),
    Answer("has_header no_header skip_header header_row", "source.header=false", about="if the first row is data"),
    Answer(
        "num_rows nrows n_rows num_samples n_samples max_samples max_lines num_lines head first take sample_size "
        "max_examples num_examples samples subset_size",
        "source.limit={value}",
        "source.limit=100",
        "only the first rows",
    ),
    Answer("include glob extensions ext suffix file_pattern", "source.pattern={value}", "source.pattern='*.txt'",
           "in folders, the names of the files to read"),
    Answer("exclude ignore skip_files", about="There is no list of files to leave out. source.pattern='*.txt' "
           "selects."),
    Answer("recursive", about="Folders are read with all their subfolders. Drop it."),
    Answer("dedup deduplicate dedupe unique", about="Equal rows are decoded once, and all are written. Drop it."),
    Answer("shuffle sort sort_by_length keep_order preserve_order", about="Rows keep their order. Drop it."),
    Answer("compress compression gzip", about="An output is compressed as its input is. Drop it."),
    # a run
    Answer("batch_size batchsize bs max_batch_size per_device_batch_size per_device_eval_batch_size eval_batch_size "
           "micro_batch_size max_num_seqs batch.size max_batch_rows max_num_sequences concurrent_rows",
           "batch.max_rows={value}", "batch.max_rows=32", "rows decoded at once; auto: as the memory allows"),
    Answer("max_num_batched_tokens max_batch_tokens max_tokens_per_batch tokens_per_batch batch_tokens",
           "batch.max_tokens={value}", "batch.max_tokens=8192", "tokens decoded at once"),
    Answer("save_steps save_every save_interval checkpoint_interval checkpoint_every flush_every commit_every",
           "batch.part_rows={value}", "batch.part_rows=64", "rows that are committed together; auto: about 20 s "
           "of work"),
    Answer("chunk_size chunk_length max_chunk window max_source_length max_input_length max_input_tokens max_src_len "
           "max_source_tokens split_length",
           "segment.max_tokens={value}", "segment.max_tokens=1024", "tokens of a segment; longer rows are cut"),
    Answer("split_sentences sentence_split sentence_splitting segmentation", "segment=default",
           about="rows longer than segment.max_tokens are cut at sentence ends"),
    Answer("resume continue resume_from resume_from_checkpoint checkpoint checkpoint_path restart skip_existing "
           "skip_done "
           "skip_completed continue_from", about="Resuming is automatic: run the same command again."),
    Answer("force clobber overwrite_output overwrite_output_dir rerun fresh redo from_scratch reset", "overwrite=true",
           about="it deletes the earlier results and starts over"),
    Answer("dry_run dryrun check_only simulate test_run", "source.limit=10",
           about="for a trial; hymt-batch plan and hymt-batch doctor with the same settings translate nothing"),
    Answer("retry retries max_retries num_retries retry_count", "check=retry",
           about="doubtful rows are decoded again; a stopped job continues with the same command"),
    Answer("max_errors error_rate ignore_errors fail_fast stop_on_error on_errors", "check.max_error_rate=0.01",
           about="the share of rows without a translation that ends in exit code 10"),
    Answer("verbose verbosity debug log_level loglevel logging v", "launch.progress=log", about="more lines on stderr"),
    Answer("quiet silent no_progress disable_tqdm tqdm progress_bar show_progress q", "launch.progress=off",
           about="warnings and errors alone"),
    Answer("log_file log_dir log_path logfile", about="Each run writes a log to output_dir/NAME/logs. Drop it."),
    Answer("report_to wandb mlflow tensorboard tracking", about="Nothing is reported to a tracking service. Drop it."),
    Answer("random_seed manual_seed rng_seed decode.seed launch.seed model.seed", "seed={value}", "seed=0"),
    Answer("timeout time_limit max_time", "launch.hang_s={value}", "launch.hang_s=1800",
           "seconds of one decoding step; a scheduler ends a job with SIGTERM, and the same command continues it"),
    Answer("config config_file config_name config_path conf cfg yaml", "preset=nightly",
           about="presets are files in conf/preset; --cfg job prints the settings of a command"),
    # decoding
    Answer("num_beams beam_size beams beam n_beams beam_width num_beam_groups",
           about=f"There is no beam search: {_DECODING}"),
    Answer("do_sample sampling sample random_sampling decoding strategy decoding_strategy", "decode=recommended",
           about="sampling as the model card says; decode=greedy is the default"),
    Answer("max_length max_len max_seq_len max_seq_length max_output_tokens max_output_length max_target_length "
           "max_tgt_len max_decode_length max_gen_len gen_length", "decode.max_new_tokens={value}",
           "decode.max_new_tokens=4096", "tokens of a translated segment"),
    Answer("max_model_len context_length context_size model_max_length n_ctx ctx_size max_position_embeddings",
           "model.max_context={value}", "model.max_context=8192", "tokens of prompt and translation"),
    Answer("length_penalty min_length min_new_tokens no_repeat_ngram_size early_stopping num_return_sequences "
           "best_of n "
           "diversity_penalty presence_penalty frequency_penalty min_p typical_p logits_processor stop stop_sequences "
           "stop_words eos_token_id pad_token_id bos_token_id use_cache forced_bos_token_id generation_config",
           about=f"The decoding has no such setting: {_DECODING}"),
    Answer("repetition", "decode.repetition_penalty={value}", "decode.repetition_penalty=1.05"),
    Answer("backend engine_name runtime inference_engine", "decode.engine=auto",
           about="slots, generate or vllm; no other engine translates"),
    Answer("vllm use_vllm", "decode.engine=vllm", about="launch.vllm_python= names its interpreter: docs/vllm.md"),
    Answer("compile torch_compile use_compile cuda_graphs cudagraph enforce_eager", "decode.capture=false",
           about="true runs decoding steps as CUDA graphs, experimental"),
    Answer("glossary glossary_file terms terminology termbase term_base dictionary user_dictionary",
           about="Glossaries are not available yet. Drop it."),
    Answer("tm translation_memory memory translation_memories tmx", about="Translation memories are not available "
           "yet."),
    Answer("context style tone formality domain instruction instructions system_prompt prompt_template template "
           "prompt.template prompt.text prompt.system user_prompt",
           about="The prompt is that of the model card: prompt.family selects it, and prompt.language its language."),
    # model
    Answer("model_name model_id model_path model_name_or_path model_dir pretrained pretrained_model "
           "pretrained_model_name_or_path checkpoint_dir weights hf_model repo_id model.name model.id model.dir",
           "model.path={value}", "model.path=FOLDER", "or choose one with model="),
    Answer("tokenizer tokenizer_path tokenizer_name chat_template", about="The tokenizer is the model's own. Drop it."),
    Answer("torch_dtype dtype precision compute_type data_type mixed_precision model.torch_dtype model.precision",
           "model.dtype={value}", "model.dtype=auto", "auto, bfloat16, float16 or float32"),
    Answer("fp16 half float16", "model.dtype=float16"),
    Answer("bf16 bfloat16", "model.dtype=bfloat16"),
    Answer("fp32 float32 full_precision", "model.dtype=float32"),
    Answer("load_in_8bit load_in_4bit int8 int4 fp8 quantization quantize quantization_config quant bits bnb "
           "bitsandbytes "
           "gptq awq gguf", "model=hy_mt1.5_1.8b_fp8", about="quantised weights are models of their own"),
    Answer("attn_implementation attn use_flash_attention use_flash_attention_2 flash_attention flash_attn "
           "attention_impl",
           "model.attention={value}", "model.attention=sdpa", "sdpa, eager or flash_attention_2"),
    Answer("cache_dir hf_home cache hub_cache", about="The cache is that of Hugging Face: set the environment variable "
           "HF_HOME, or model.path=FOLDER for a folder with the model."),
    Answer("model_revision model_version branch commit revision", "model.revision={value}", "model.revision=main"),
    Answer("token hf_token use_auth_token auth_token api_key access_token",
           about="A token for the hub is taken from the environment variable HF_TOKEN, never from a setting."),
    Answer("local_files_only offline hf_hub_offline", "model.download=false", about="the default"),
    Answer("auto_download download_model force_download", "model.download=true"),
    Answer("trust_remote_code", about="Code in a model's folder is never run. Drop it."),
    Answer("lora adapter peft adapter_path", about="Adapters are not loaded: merge them, and set model.path=FOLDER."),
    # devices
    Answer("device gpu_id device_id cuda_device model.device launch.device device_index",
           "device_map={value}", "device_map=single device_map.device=0", "or device_map=cpu, or replicate for "
           "all GPUs"),
    Answer("device_ids gpu_ids cuda_visible_devices visible_devices launch.gpus", "device_map=replicate",
           about="on all GPUs; the environment variable CUDA_VISIBLE_DEVICES=0,1 selects some"),
    Answer("cpu use_cpu no_cuda no_gpu force_cpu", "device_map=cpu"),
    Answer("cuda gpu use_gpu use_cuda", "device_map=replicate", about="the default: every GPU that holds the model"),
    Answer("num_workers workers n_jobs n_workers num_proc num_procs num_processes processes jobs parallel parallelism "
           "concurrency num_replicas replicas gpus num_gpus n_gpu n_gpus ngpu ngpus world_size nproc nproc_per_node "
           "data_parallel_size dp dp_size dataloader_num_workers preprocessing_num_workers",
           "launch.workers={value}", "launch.workers=2", "processes with a replica of the model each"),
    Answer("tensor_parallel_size tensor_parallel tp tp_size pipeline_parallel_size pp model_parallel",
           "device_map=balanced",
           about="splits a model that fits no single GPU; replicate is faster where it fits"),
    Answer("threads n_threads nthreads cpu_threads omp_num_threads torch_threads intra_threads inter_threads",
           "launch.num_threads={value}", "launch.num_threads=4", "CPU threads of a process"),
    Answer("prefetch prefetch_factor num_prefetch", "launch.prefetch_shards={value}", "launch.prefetch_shards=1"),
    Answer("low_cpu_mem_usage offload_state_dict offload_buffers max_shard_size",
           about="Weights are always read one by one, straight to their device. Drop it."),
    Answer("offload_dir offload_path disk_offload", "device_map=offload device_map.offload_folder={value}",
           "device_map=offload device_map.offload_folder=FOLDER", "layers that do not fit go to memory and disk, "
           "slowly"),
    Answer("cpu_offload offload", "device_map=offload", about="layers that do not fit go to memory and disk, slowly"),
    Answer("gpu_memory_utilization memory_fraction gpu_memory_fraction gpu_margin", "device_map.margin=2GiB",
           about="memory of each GPU to keep free of weights"),
    Answer("deepspeed fsdp accelerate distributed local_rank master_addr master_port", about="hymt-batch needs no "
           "launcher: start it once; launch.workers=auto uses all GPUs, and device_map=balanced splits a model."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ValueAnswer:
    """What to write instead of a value that a setting or a group does not have."""

    key: str  # setting or group
    pattern: str  # of the whole value, in lower case
    fix: str  # a sentence with its full stop; \\1 is the first group of the pattern


_QUANTISED = "Quantised weights are models of their own: model=hy_mt1.5_1.8b_fp8, model=hy_mt1.5_1.8b_gptq_int4."
_ONE_GPU = "Write device_map=single device_map.device=\\1."

VALUES = (
    ValueAnswer("device_map", r"(?:cuda|gpu):?(\d+)|(?!)", _ONE_GPU),
    ValueAnswer("device_map", r"(\d+)", _ONE_GPU),
    ValueAnswer("device_map", r"cuda|gpu|all|none|null|data_parallel|dp",
                "Write device_map=replicate: a whole model on every GPU."),
    ValueAnswer("device_map", r"auto_?balanced|balanced_?auto|even|split|tp|tensor_parallel|pp|pipeline",
                "Write device_map=balanced: the layers spread over the GPUs."),
    ValueAnswer("device_map", r"mps|xpu|npu|hpu|tpu|xla|rocm|vulkan|dml",
                "hymt-batch runs on CUDA GPUs and on CPUs: device_map=cpu."),
    ValueAnswer("device_map", r"disk|cpu_?offload|meta", "Write device_map=offload."),
    ValueAnswer("device_map", r"\{.*", "Write device_map=manual device_map.map='{model.layers.*: 0, ...}'."),
    ValueAnswer("device_map", r"\[.*", "Write device_map=fallback device_map.order=[replicate,balanced,offload]."),
    ValueAnswer("model.dtype", r"(?:torch\.)?(?:bf16|bfloat16|brain)", "Write model.dtype=bfloat16."),
    ValueAnswer("model.dtype", r"(?:torch\.)?(?:fp16|float16|f16|half)", "Write model.dtype=float16."),
    ValueAnswer("model.dtype", r"(?:torch\.)?(?:fp32|float32|f32|float|full|single)", "Write model.dtype=float32."),
    ValueAnswer("model.dtype",
                r".*(?:int|uint|nf|fp|float|q|w|bit)_?-?[48].*|[48]-?bit|gptq.*|awq.*|gguf.*|bnb.*|q\d.*",
                _QUANTISED),
    ValueAnswer("model", r".*gguf.*", "GGUF files are not read: choose a model below."),
    ValueAnswer("model.attention", r"fa2|flash|flash_attn.*|flash_attention|flashattention.*",
                "Write model.attention=flash_attention_2."),
    ValueAnswer("decode.engine", r"transformers|hf|huggingface|pytorch|torch", "Write decode.engine=generate."),
    ValueAnswer("decode.engine", r"sglang|tgi|tensorrt.*|trt.*|llama.*|ctranslate2|ct2|onnx.*|continuous",
                "That engine does not translate here: write decode.engine=auto."),
    ValueAnswer("decode", r"beam.*", "There is no beam search: write decode=greedy."),
    ValueAnswer("decode", r"sampl.*|nucleus|top_?[kp]|random|temperature", "Write decode=recommended."),
    ValueAnswer("decode.method", r"beam.*", "There is no beam search: write decode.method=greedy."),
    ValueAnswer("source", r"json", "Write source=jsonl."),
    ValueAnswer("write", r"json", "Write write=jsonl."),
    ValueAnswer("source", r"txt|plain", "Write source=text."),
    ValueAnswer("write", r"txt|plain", "Write write=text."),
    ValueAnswer("source.format", r"json", "Write source.format=jsonl."),
    ValueAnswer("write.format", r"json", "Write write=jsonl."),
    ValueAnswer("source.format", r"txt|plain", "Write source.format=text."),
    ValueAnswer("write.format", r"txt|plain", "Write write=text."),
    ValueAnswer("launch.progress", r"none|null|false|0|no|quiet|silent|never", "Write launch.progress=off."),
    ValueAnswer("launch.progress", r"true|1|yes|on|tqdm", "Write launch.progress=bar."),
    ValueAnswer("on_mismatch", r"overwrite|redo|replace|restart", "Write overwrite=true to start over."),
)  # fmt: skip
