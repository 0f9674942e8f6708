// A small stand-in for ONNX Runtime's own onnxruntime_c_api.h: the part of it that generate.c calls, under the same
// names. Where the official header is at hand (it comes in the release archives), put its folder first and leave this
// one out.
//
// OrtApi is a table of functions. It only grows at its end, so that a slot keeps its number: those named here stand
// where they are in version 16 (ONNX Runtime 1.16) and every later one.
#ifndef ONNXRUNTIME_C_API_SUBSET
#define ONNXRUNTIME_C_API_SUBSET
#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 16

typedef struct OrtAllocator OrtAllocator;
typedef struct OrtEnv OrtEnv;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtModelMetadata OrtModelMetadata;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtStatus OrtStatus;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtValue OrtValue;

typedef enum { ORT_LOGGING_LEVEL_ERROR = 3, ORT_LOGGING_LEVEL_FATAL = 4 } OrtLoggingLevel;
typedef enum { OrtDeviceAllocator = 0 } OrtAllocatorType;
typedef enum { OrtMemTypeDefault = 0 } OrtMemType;
typedef enum {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7
} ONNXTensorElementDataType;

typedef struct OrtApi {
    void* slots_0_to_1[2];
    const char* (*GetErrorMessage)(const OrtStatus*);                      // 2
    OrtStatus* (*CreateEnv)(OrtLoggingLevel, const char* name, OrtEnv**);  // 3
    void* slots_4_to_6[3];
    OrtStatus* (*CreateSession)(const OrtEnv*, const char* path, const OrtSessionOptions*, OrtSession**);  // 7
    void* slot_8;
    OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const* input_names, const OrtValue* const* inputs,
                      size_t input_count, const char* const* output_names, size_t output_count,
                      OrtValue** outputs);                    // 9
    OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**);  // 10
    void* slots_11_to_48[38];
    OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void* data, size_t bytes, const int64_t* shape,
                                                 size_t rank, ONNXTensorElementDataType, OrtValue**);  // 49
    void* slot_50;
    OrtStatus* (*GetTensorMutableData)(OrtValue*, void**);  // 51
    void* slots_52_to_61[10];
    OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t* shape, size_t rank);  // 62
    void* slots_63_to_64[2];
    OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo**);  // 65
    void* slots_66_to_68[3];
    OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);  // 69
    void* slots_70_to_77[8];
    OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator**);  // 78
    void* slots_79_to_91[13];
    void (*ReleaseEnv)(OrtEnv*);  // 92
    void* slot_93;
    void (*ReleaseMemoryInfo)(OrtMemoryInfo*);  // 94
    void (*ReleaseSession)(OrtSession*);        // 95
    void (*ReleaseValue)(OrtValue*);            // 96
    void* slots_97_to_98[2];
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);  // 99
    void (*ReleaseSessionOptions)(OrtSessionOptions*);                  // 100
    void* slots_101_to_110[10];
    OrtStatus* (*SessionGetModelMetadata)(const OrtSession*, OrtModelMetadata**);  // 111
    void* slots_112_to_115[4];
    OrtStatus* (*ModelMetadataLookupCustomMetadataMap)(const OrtModelMetadata*, OrtAllocator*, const char* key,
                                                       char** value);  // 116
    void* slot_117;
    void (*ReleaseModelMetadata)(OrtModelMetadata*);  // 118
} OrtApi;

typedef struct OrtApiBase {
    const OrtApi* (*GetApi)(uint32_t version);  // NULL where the library is older than that version
    const char* (*GetVersionString)(void);
} OrtApiBase;

const OrtApiBase* OrtGetApiBase(void);

#define ORT_SLOT(name, number) _Static_assert(offsetof(OrtApi, name) == (number) * sizeof(void*), #name)
ORT_SLOT(GetErrorMessage, 2);
ORT_SLOT(Run, 9);
ORT_SLOT(CreateTensorWithDataAsOrtValue, 49);
ORT_SLOT(GetTensorMutableData, 51);
ORT_SLOT(GetTensorTypeAndShape, 65);
ORT_SLOT(GetAllocatorWithDefaultOptions, 78);
ORT_SLOT(ReleaseSessionOptions, 100);
ORT_SLOT(ReleaseModelMetadata, 118);
#endif
