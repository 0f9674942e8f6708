// One picture from words, in C: runs a pipeline.onnx that `diffrt export SOURCE DEST --form single` wrote.
//
//     make ORT=/path/to/libonnxruntime.so
//     ./generate DEST/pipeline.onnx "a red apple" apple.png
//     ./generate DEST/pipeline.onnx "a red apple" apple.png SEED STEPS GUIDANCE "what to keep out"
//
// All that diffusion needs besides is in the graph: noise from the seed, the scheduler's table, guidance, loop and
// decoder.
#include <inttypes.h>
#include <locale.h>
#include <onnxruntime_c_api.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clip_bpe.h"
#include "png.h"

static const OrtApi* ort;

static void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("generate: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static void check(OrtStatus* status, const char* doing) {
    if (status) fail("%s: %s", doing, ort->GetErrorMessage(status));
}

// What the exporter wrote into the file under a key, or NULL. Lives as long as the program.
static char* fact(OrtSession* session, const char* key) {
    OrtModelMetadata* metadata;
    OrtAllocator* allocator;
    char* value = NULL;
    check(ort->SessionGetModelMetadata(session, &metadata), "reading what the file says of itself");
    check(ort->GetAllocatorWithDefaultOptions(&allocator), "allocating");
    check(ort->ModelMetadataLookupCustomMetadataMap(metadata, allocator, key, &value), key);
    ort->ReleaseModelMetadata(metadata);
    return value;
}

static OrtValue* tensor(void* data, size_t bytes, ONNXTensorElementDataType type, const int64_t* shape, size_t rank) {
    OrtMemoryInfo* memory;
    OrtValue* value;
    check(ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory), "allocating");
    check(ort->CreateTensorWithDataAsOrtValue(memory, data, bytes, shape, rank, type, &value), "making an input");
    ort->ReleaseMemoryInfo(memory);
    return value;  // the data stay the caller's, and must outlive it
}

static OrtValue* whole(int64_t* numbers, int64_t length, size_t rank) {  // [], [length] or [1, length]
    int64_t shape[] = {1, length};
    return tensor(numbers, length * sizeof *numbers, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, shape + (rank < 2), rank);
}

static int64_t* encode(const Clip* clip, const char* what, const char* text, int length) {
    int64_t* ids = malloc(length * sizeof *ids);
    int cut = clip_encode(clip, text, ids, length);
    if (cut < 0) fail("the %s is not UTF-8", what);
    if (cut) fprintf(stderr, "generate: note: the last %d tokens of the %s do not fit and are left out\n", cut, what);
    return ids;
}

// A number that is all of the text
static double number(const char* name, const char* text) {
    char* end;
    double value = strtod(text, &end);
    if (end == text || *end) fail("%s is %s: give a number", name, text);
    return value;
}

// Is it in a list like "1,4,8"?
static int listed(const char* list, int64_t number) {
    for (char* end; *list; list = *end ? end + 1 : end)
        if (strtoll(list, &end, 10) == number) return 1;
    return 0;
}

int main(int count, char** arguments) {
    if (count < 4 || count > 8)
        fail("usage: generate PIPELINE.onnx PROMPT OUTPUT.png [SEED [STEPS [GUIDANCE [NEGATIVE]]]]");
    const char *path = arguments[1], *prompt = arguments[2], *output = arguments[3];
    int64_t seed = count > 4 ? (int64_t)number("the seed", arguments[4]) : 0, start = 0, evaluations = INT64_MAX;
    setlocale(LC_CTYPE, "C.UTF-8");  // for letters beyond ASCII
    ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!ort)
        fail("ONNX Runtime %s is too old: give one from 1.%d on", OrtGetApiBase()->GetVersionString(), ORT_API_VERSION);

    OrtEnv* env;
    OrtSessionOptions* options;
    OrtSession* session;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "generate", &env), "starting ONNX Runtime");
    check(ort->CreateSessionOptions(&options), "starting ONNX Runtime");
    check(ort->CreateSession(env, path, options, &session),
          "the model is missing, damaged or newer than this ONNX Runtime");
    char *generator = fact(session, "generator"), *task = fact(session, "task"), *form = fact(session, "tokenizer");
    char* loop = fact(session, "loop");
    if (!generator || strncmp(generator, "diffrt ", 7) || !task || !form || !loop)
        fail("%s is no single graph of diffrt: write one with diffrt export SOURCE DEST --form single", path);
    if (strcmp(task, "text_to_image") || strcmp(form, "ids") || strcmp(loop, "scan"))
        fail("the file is of the kind \"%s, %s, %s\", this program is for \"text_to_image, ids, scan\"", task, form, loop);
    char *baked = fact(session, "steps"), *latents = fact(session, "latents");

    int64_t steps = (int64_t)number("the step count", count > 5 ? arguments[5] : fact(session, "default_steps"));
    float guidance = (float)number("the guidance", count > 6 ? arguments[6] : fact(session, "default_guidance"));
    if (!listed(baked, steps)) fail("%lld steps are not in this file: give one of %s", (long long)steps, baked);

    Clip clip;
    char merges[4096];
    int length = atoi(fact(session, "tokens")), folder = (int)(strrchr(path, '/') ? strrchr(path, '/') - path + 1 : 0);
    snprintf(merges, sizeof merges, "%.*smerges.txt", folder, path);
    if (!clip_load(&clip, merges, atoi(fact(session, "pad_token"))))
        fail("%s is missing or empty: it lies beside the model", merges);
    if (clip.special_id[0] != atoi(fact(session, "start_token")))
        fail("%s is not this model's: take the one beside it", merges);
    int64_t* ids = encode(&clip, "prompt", prompt, length);
    int64_t* negative = encode(&clip, "negative prompt", count > 7 ? arguments[7] : "", length);
    clip_free(&clip);

    // The whole run in one call. In segments, start goes on from 0 by count, and slots_before is what the last call
    // gave as slots.
    int64_t c, h, w;
    if (sscanf(latents, "%" SCNd64 ",%" SCNd64 ",%" SCNd64, &c, &h, &w) != 3)
        fail("%s names latents of %s", path, latents);
    int64_t state[] = {1, 1, c, h, w};
    float* nothing = calloc(c * h * w, sizeof *nothing);
    const char* names[] = {"input_ids",           "negative_ids", "seed",  "guidance_scale",
                           "num_inference_steps", "start",        "count", "slots_before"};
    OrtValue* inputs[] = {
        whole(ids, length, 2),
        whole(negative, length, 2),
        whole(&seed, 1, 1),
        tensor(&guidance, sizeof guidance, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, NULL, 0),
        whole(&steps, 1, 0),
        whole(&start, 1, 0),
        whole(&evaluations, 1, 0),
        tensor(nothing, c * h * w * sizeof *nothing, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, state, 5),
    };
    OrtValue* images = NULL;
    check(ort->Run(session, NULL, names, (const OrtValue* const*)inputs, 8, (const char*[]){"images"}, 1, &images),
          "drawing");

    OrtTensorTypeAndShapeInfo* info;
    int64_t shape[4];  // [1,H,W,3] u8
    void* pixels;
    check(ort->GetTensorTypeAndShape(images, &info), "reading the picture");
    check(ort->GetDimensions(info, shape, 4), "reading the picture");
    check(ort->GetTensorMutableData(images, &pixels), "reading the picture");
    if (!png_write(output, pixels, (uint32_t)shape[2], (uint32_t)shape[1])) fail("%s cannot be written", output);

    ort->ReleaseTensorTypeAndShapeInfo(info);
    ort->ReleaseValue(images);
    for (int i = 0; i < 8; i++) ort->ReleaseValue(inputs[i]);
    ort->ReleaseSession(session);
    ort->ReleaseSessionOptions(options);
    ort->ReleaseEnv(env);
    free(nothing), free(ids), free(negative);
    return 0;
}
