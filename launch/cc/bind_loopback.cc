// Preloaded (LD_PRELOAD) into the processes of a local cluster: who listens on all interfaces
// listens on loopback instead. TensorFlow's gRPC server binds 0.0.0.0 whatever the cluster says,
// and does what anyone who reaches it asks. See docs/design/security.md.
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace {

constexpr unsigned char kLoopbackInIpv6[16] = {0, 0, 0,    0,    0,   0, 0, 0,
                                               0, 0, 0xff, 0xff, 127, 0, 0, 1};

int Option(int socket, int level, int name) {
  int value = 0;
  socklen_t size = sizeof(value);
  return getsockopt(socket, level, name, &value, &size) == 0 ? value : -1;
}

}  // namespace

// A client that binds asks for port 0 and may want to leave the machine; it is left alone.
extern "C" int bind(int socket, const sockaddr* address, socklen_t size) noexcept {
  sockaddr_storage changed = {};
  if (address != nullptr && size <= sizeof(changed) &&
      Option(socket, SOL_SOCKET, SO_TYPE) == SOCK_STREAM) {
    std::memcpy(&changed, address, size);
    auto* v4 = reinterpret_cast<sockaddr_in*>(&changed);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&changed);
    if (size >= sizeof(*v4) && v4->sin_family == AF_INET && v4->sin_port != 0 &&
        v4->sin_addr.s_addr == htonl(INADDR_ANY)) {
      v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else if (size >= sizeof(*v6) && v6->sin6_family == AF_INET6 && v6->sin6_port != 0 &&
               IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr)) {
      if (Option(socket, IPPROTO_IPV6, IPV6_V6ONLY) == 0) {
        std::memcpy(&v6->sin6_addr, kLoopbackInIpv6, sizeof(kLoopbackInIpv6));
      } else {
        v6->sin6_addr = in6addr_loopback;
      }
    }
    address = reinterpret_cast<const sockaddr*>(&changed);
  }
  return syscall(SYS_bind, socket, address, size);
}
