// Stands for NVIDIA's libnvidia-ml.so.1: two GPUs, which have taken 5 J, and 7 J more each time that they are asked again.

namespace {
unsigned long long millijoules[2] = {5000, 5000};  // NOLINT: C arrays, as C has it
}

extern "C" {
int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 2;
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = &millijoules[index];
  return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* value) {
  auto& counter = *static_cast<unsigned long long*>(device);
  *value = counter;
  counter += 7000;
  return 0;
}
}
