// Kernels of the ops of dynamic tables: they unpack tensors and call amstf::DynamicTable.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "amstf/cc/optimizer/row_rule.h"
#include "amstf/cc/table/dynamic_table.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_op_kernel.h"
#include "tensorflow/core/util/work_sharder.h"

namespace amstf {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// Nanoseconds that a row takes, roughly: below some tens of microseconds in all, other threads are
// not worth waking.
constexpr int64_t kCostOfRow = 100;

class DynamicTableResource : public tensorflow::ResourceBase {
 public:
  explicit DynamicTableResource(const DynamicTableOptions& options) : table_(options) {}

  DynamicTable& table() { return table_; }
  std::string DebugString() const override {
    return absl::StrCat("dynamic table of width ", table_.options().width);
  }

 private:
  DynamicTable table_;
};

class DynamicTableOp : public tensorflow::ResourceOpKernel<DynamicTableResource> {
 public:
  explicit DynamicTableOp(OpKernelConstruction* ctx) : ResourceOpKernel(ctx) {
    std::string initializer, without_row, at_limit;
    std::vector<float> values;
    int64_t seed;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("width", &options_.width));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("initializer", &initializer));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("initializer_values", &values));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("seed", &seed));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("admit_after", &options_.admit_after));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("filter_bytes", &options_.filter_bytes));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("admit_probability", &options_.admit_probability));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("without_row", &without_row));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_rows", &options_.max_rows));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_bytes", &options_.max_bytes));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("at_limit", &at_limit));
    const size_t wanted = initializer == "constant" ? 1 : 2;
    OP_REQUIRES(
        ctx, values.size() == wanted,
        absl::InvalidArgumentError(absl::StrCat("initializer_values has ", values.size(),
                                                " values, wanted ", wanted, " for ", initializer)));
    options_.initializer = initializer == "constant"  ? Initializer::kConstant
                           : initializer == "uniform" ? Initializer::kUniform
                                                      : Initializer::kNormal;
    options_.a = values[0];
    options_.b = wanted == 2 ? values[1] : 0;
    options_.seed = static_cast<uint64_t>(seed);
    options_.initial_without_row = without_row == "initial";
    options_.at_limit = at_limit == "refuse"         ? AtLimit::kRefuse
                        : at_limit == "least_recent" ? AtLimit::kLeastRecent
                                                     : AtLimit::kLeastFrequent;
    OP_REQUIRES_OK(ctx, options_.Validate());
  }

 private:
  absl::Status CreateResource(DynamicTableResource** resource) override {
    *resource = new DynamicTableResource(options_);
    return absl::OkStatus();
  }

  absl::Status VerifyResource(DynamicTableResource* resource) override {
    if (resource->table().options() == options_) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("the ", resource->DebugString(),
                     " of this name was made with other options; use another shared_name"));
  }

  DynamicTableOptions options_;
};

// What the kernels below share: the table of input 0.
class TableKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) final {
    tensorflow::core::RefCountPtr<DynamicTableResource> resource;
    OP_REQUIRES_OK(ctx,
                   tensorflow::LookupResource(ctx, tensorflow::HandleFromInput(ctx, 0), &resource));
    OP_REQUIRES_OK(ctx, Run(ctx, resource->table()));
  }

 protected:
  virtual absl::Status Run(OpKernelContext* ctx, DynamicTable& table) = 0;

  static absl::Status WantRank(OpKernelContext* ctx, int input, const char* name, int rank) {
    if (ctx->input(input).dims() == rank) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(name, " must be of rank ", rank, ", got shape ",
                                                   ctx->input(input).shape().DebugString()));
  }

  static absl::StatusOr<absl::Span<const int64_t>> IdsOf(OpKernelContext* ctx, int input) {
    TF_RETURN_IF_ERROR(WantRank(ctx, input, "ids", 1));
    const Tensor& ids = ctx->input(input);
    if (ids.NumElements() > INT32_MAX) {
      return absl::InvalidArgumentError(
          absl::StrCat("ids has ", ids.NumElements(), " elements; wanted at most ", INT32_MAX));
    }
    return absl::Span<const int64_t>(ids.flat<int64_t>().data(), ids.NumElements());
  }

  // Calls `work` with ranges of shards, on as many threads as so many rows are worth.
  static void OverShards(OpKernelContext* ctx, int64_t rows,
                         const std::function<void(int64_t, int64_t)>& work) {
    const auto& threads = *ctx->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(threads.num_threads, threads.workers, DynamicTable::kNumShards,
                      std::max<int64_t>(1, rows * kCostOfRow / DynamicTable::kNumShards), work);
  }
};

class DynamicLookupOp : public TableKernel {
  using TableKernel::TableKernel;

  absl::Status Run(OpKernelContext* ctx, DynamicTable& table) override {
    const auto ids = IdsOf(ctx, 1);
    if (!ids.ok()) return ids.status();
    TF_RETURN_IF_ERROR(WantRank(ctx, 2, "sights", 1));
    TF_RETURN_IF_ERROR(WantRank(ctx, 3, "training", 0));
    const Tensor& sights_tensor = ctx->input(2);
    const absl::Span<const int32_t> sights(sights_tensor.flat<int32_t>().data(),
                                           sights_tensor.NumElements());
    if (!sights.empty() && sights.size() != ids->size()) {
      return absl::InvalidArgumentError(absl::StrCat("sights has ", sights.size(),
                                                     " elements, wanted ", ids->size(),
                                                     ", one for each id, or none"));
    }
    const auto least = std::min_element(sights.begin(), sights.end());
    if (least != sights.end() && *least < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("sights holds ", *least, "; wanted 1 or more"));
    }
    Tensor* rows = nullptr;
    const int64_t count = ids->size();
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, {count, table.options().width}, &rows));
    const bool training = ctx->input(3).scalar<bool>()();
    const RowLookup lookup{*ids, sights, training, training ? table.Tick() : Moment(),
                           rows->flat<float>().data()};
    const DynamicTable::Plan plan = DynamicTable::Route(*ids);
    OverShards(ctx, count,
               [&](int64_t begin, int64_t end) { table.Lookup(lookup, plan, begin, end); });
    return absl::OkStatus();
  }
};

class DynamicApplyOp : public TableKernel {
 public:
  explicit DynamicApplyOp(OpKernelConstruction* ctx) : TableKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("rule", &rule_));
  }

 private:
  absl::Status Run(OpKernelContext* ctx, DynamicTable& table) override {
    const auto ids = IdsOf(ctx, 1);
    if (!ids.ok()) return ids.status();
    const Tensor& gradients = ctx->input(2);
    const tensorflow::TensorShape wanted(
        {static_cast<int64_t>(ids->size()), table.options().width});
    if (gradients.shape() != wanted) {
      return absl::InvalidArgumentError(absl::StrCat("gradients has shape ",
                                                     gradients.shape().DebugString(), ", wanted ",
                                                     wanted.DebugString(), ", one for each id"));
    }
    TF_RETURN_IF_ERROR(WantRank(ctx, 3, "settings", 1));
    TF_RETURN_IF_ERROR(WantRank(ctx, 4, "step", 0));
    const Tensor& settings = ctx->input(3);
    const auto step = MakeRowStep(
        rule_, absl::Span<const float>(settings.flat<float>().data(), settings.NumElements()),
        ctx->input(4).scalar<int64_t>()());
    if (!step.ok()) return step.status();
    TF_RETURN_IF_ERROR(table.SetRule(RuleOf(*step)));
    const DynamicTable::Plan plan = DynamicTable::Route(*ids);
    const float* values = gradients.flat<float>().data();
    OverShards(ctx, ids->size(), [&](int64_t begin, int64_t end) {
      table.Apply(*step, *ids, values, plan, begin, end);
    });
    return absl::OkStatus();
  }

  std::string rule_;
};

class DynamicCountersOp : public TableKernel {
  using TableKernel::TableKernel;

  absl::Status Run(OpKernelContext* ctx, DynamicTable& table) override {
    Tensor* out = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, {DynamicTable::kNumCounters}, &out));
    const auto counters = table.Counters();
    std::copy(counters.begin(), counters.end(), out->flat<int64_t>().data());
    return absl::OkStatus();
  }
};

class DynamicEvictOp : public TableKernel {
 public:
  explicit DynamicEvictOp(OpKernelConstruction* ctx) : TableKernel(ctx) {
    std::string policy;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("policy", &policy));
    policy_ = policy == "unseen_steps"   ? Eviction::kUnseenSteps
              : policy == "unseen_since" ? Eviction::kUnseenSince
              : policy == "small_norm"   ? Eviction::kSmallNorm
              : policy == "least_recent" ? Eviction::kLeastRecent
                                         : Eviction::kLeastFrequent;
  }

 private:
  absl::Status Run(OpKernelContext* ctx, DynamicTable& table) override {
    TF_RETURN_IF_ERROR(WantRank(ctx, 1, "limit", 0));
    const auto evicted = table.Evict(policy_, ctx->input(1).scalar<double>()());
    if (!evicted.ok()) return evicted.status();
    Tensor* out = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, {}, &out));
    out->scalar<int64_t>()() = *evicted;
    return absl::OkStatus();
  }

  Eviction policy_;
};

class DynamicExportOp : public TableKernel {
  using TableKernel::TableKernel;

  absl::Status Run(OpKernelContext* ctx, DynamicTable& table) override {
    TF_RETURN_IF_ERROR(WantRank(ctx, 1, "page", 0));
    TF_RETURN_IF_ERROR(WantRank(ctx, 2, "num_pages", 0));
    const int64_t page = ctx->input(1).scalar<int64_t>()();
    const int64_t pages = ctx->input(2).scalar<int64_t>()();
    constexpr int64_t kShards = DynamicTable::kNumShards;
    if (pages < 1 || pages > kShards || page < 0 || page >= pages) {
      return absl::InvalidArgumentError(
          absl::StrCat("page is ", page, " of ", pages, "; wanted one of at most ", kShards));
    }
    const RowRule rule = table.rule();
    const TablePage rows = table.Export(page * kShards / pages, (page + 1) * kShards / pages);
    const int64_t count = rows.ids.size();
    const int64_t width = table.options().width * (1 + rule.num_slots);
    if (static_cast<int64_t>(rows.values.size()) != count * width) {
      return absl::AbortedError("the table got its first update meanwhile; ask again");
    }
    TF_RETURN_IF_ERROR(Output(ctx, 0, {count}, rows.ids));
    TF_RETURN_IF_ERROR(Output(ctx, 1, {count, width}, rows.values));
    TF_RETURN_IF_ERROR(Output(ctx, 2, {count, TablePage::kSeen}, rows.seen));
    Tensor* name = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(3, {}, &name));
    name->scalar<tensorflow::tstring>()() = rule.name;
    return Output(ctx, 4, {}, std::vector<float>{rule.initial[0]});
  }

  template <typename T>
  static absl::Status Output(OpKernelContext* ctx, int output, const tensorflow::TensorShape& shape,
                             const std::vector<T>& values) {
    Tensor* tensor = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(output, shape, &tensor));
    std::copy(values.begin(), values.end(), tensor->flat<T>().data());
    return absl::OkStatus();
  }
};

class DynamicImportOp : public TableKernel {
  using TableKernel::TableKernel;

  absl::Status Run(OpKernelContext* ctx, DynamicTable& table) override {
    const auto ids = IdsOf(ctx, 1);
    if (!ids.ok()) return ids.status();
    TF_RETURN_IF_ERROR(WantRank(ctx, 4, "rule", 0));
    TF_RETURN_IF_ERROR(WantRank(ctx, 5, "initial_accumulator", 0));
    const auto rule =
        FindRowRule(ctx->input(4).scalar<tensorflow::tstring>()(), ctx->input(5).scalar<float>()());
    if (!rule.ok()) return rule.status();
    const Tensor& values = ctx->input(2);
    const Tensor& seen = ctx->input(3);
    const TablePageView page{
        *ids, absl::Span<const float>(values.flat<float>().data(), values.NumElements()),
        absl::Span<const int64_t>(seen.flat<int64_t>().data(), seen.NumElements())};
    return table.Import(page, *rule);
  }
};

class DynamicFilterOp : public TableKernel {
  using TableKernel::TableKernel;

  absl::Status Run(OpKernelContext* ctx, DynamicTable& table) override {
    const std::vector<uint8_t> counters = table.ExportFilter();
    Tensor* out = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, {static_cast<int64_t>(counters.size())}, &out));
    std::copy(counters.begin(), counters.end(), out->flat<uint8_t>().data());
    return absl::OkStatus();
  }
};

class DynamicMergeFilterOp : public TableKernel {
  using TableKernel::TableKernel;

  absl::Status Run(OpKernelContext* ctx, DynamicTable& table) override {
    TF_RETURN_IF_ERROR(WantRank(ctx, 1, "counters", 1));
    const Tensor& counters = ctx->input(1);
    return table.MergeFilter({counters.flat<uint8_t>().data(), size_t(counters.NumElements())});
  }
};

class DynamicClearOp : public TableKernel {
  using TableKernel::TableKernel;

  absl::Status Run(OpKernelContext* ctx, DynamicTable& table) override {
    TF_RETURN_IF_ERROR(WantRank(ctx, 1, "clock", 0));
    table.Clear(ctx->input(1).scalar<int64_t>()());
    return absl::OkStatus();
  }
};

#define REGISTER(name) \
  REGISTER_KERNEL_BUILDER(Name("Ams" #name).Device(tensorflow::DEVICE_CPU), name##Op)
REGISTER(DynamicTable);
REGISTER(DynamicLookup);
REGISTER(DynamicApply);
REGISTER(DynamicCounters);
REGISTER(DynamicEvict);
REGISTER(DynamicExport);
REGISTER(DynamicImport);
REGISTER(DynamicFilter);
REGISTER(DynamicMergeFilter);
REGISTER(DynamicClear);
#undef REGISTER

}  // namespace
}  // namespace amstf
