// What the kernel needs of its platform, for CUDA. Elsewhere another header defines the same names.
//
// A block is a set of threads with a shared memory and a barrier. Its threads form groups of LANES, which
// exchange values (a warp). The blocks of a learner form one cluster: they run at the same time and have a
// barrier. Barriers order all memory accesses of the threads that they join. A launch has one cluster for each
// learner, or one block for each.
#ifdef __CUDACC__
#define DEVICE static __device__
#define PART static __device__ __noinline__  // compiled once, not for each use
#define TABLE __device__ const
#define THREAD int(threadIdx.x)
#define BLOCK int(blockIdx.x % BLOCKS)
#define LEARNER int(blockIdx.x / BLOCKS)
#define LANES 32
#define BARRIER() __syncthreads()
#define LANE_BARRIER() __syncwarp()

#if BLOCKS > 1  // from compute capability 9.0 on
#define CLUSTER_BARRIER()                                                       \
    do {                                                                        \
        asm volatile("barrier.cluster.arrive.release;" ::: "memory");           \
        asm volatile("barrier.cluster.wait.acquire;" ::: "memory");             \
    } while (0)
#define CLUSTER __cluster_dims__(BLOCKS, 1, 1)
#else
#define CLUSTER_BARRIER() __syncthreads()
#define CLUSTER
#endif
#define KERNEL extern "C" __global__ void CLUSTER __launch_bounds__(THREADS, 1)

template <typename T>
DEVICE T exchange(T value, int distance) {
    return __shfl_xor_sync(0xffffffffu, value, distance);
}

extern __shared__ double shared_memory[];
DEVICE double* shared() { return shared_memory; }

DEVICE double infinity() { return __longlong_as_double(0x7ff0000000000000LL); }
DEVICE double not_a_number() { return __longlong_as_double(0x7ff8000000000000LL); }
#else
#include "cuda_on_cpu.h"
#endif

#define LANE (THREAD % LANES)
#define GROUP (THREAD / LANES)
#define GROUPS (THREADS / LANES)
