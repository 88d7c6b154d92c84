// A CUDA device that does nothing, for fake tensors in a CPU build of PyTorch: what autograd and the choice of memory
// layouts ask of a device and of CUDA's hooks.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {
struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, getDevice()); }
  c10::Stream getDefaultStream(c10::Device) const override { return getStream(getDevice()); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream(getDevice()); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  c10::DeviceIndex deviceCount() const noexcept override { return 8; }
};

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  bool isBuilt() const override { return true; }  // as a CUDA build says on a machine without a GPU
  bool hasPrimaryContext(c10::DeviceIndex) const override { return false; }
  // Without cuDNN, convolutions would be said to return other memory layouts.
  bool compiledWithCuDNN() const override { return true; }
  bool hasCuDNN() const override { return true; }
  long versionCuDNN() const override { return 91000; }
  long versionRuntimeCuDNN() const override { return 91000; }
  bool supportsDilatedConvolutionWithCuDNN() const override { return true; }
  bool supportsDepthwiseConvolutionWithCuDNN() const override { return true; }
  bool supportsBFloat16ConvolutionWithCuDNNv8() const override { return true; }
};
}  // namespace

namespace c10::impl { C10_REGISTER_GUARD_IMPL(CUDA, Guard) }

// ATen made its hooks when PyTorch was imported. They hold nothing but their table of virtual functions, which this
// replaces.
static Hooks hooks{{}};
static const bool replaced = [] {
  void*& table = *reinterpret_cast<void**>(const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks()));
  table = *reinterpret_cast<void**>(&hooks);
  return true;
}();
