import com.google.gson.Gson;
import com.segment.analytics.Analytics;
import com.segment.analytics.Callback;
import com.segment.analytics.messages.AliasMessage;
import com.segment.analytics.messages.GroupMessage;
import com.segment.analytics.messages.IdentifyMessage;
import com.segment.analytics.messages.Message;
import com.segment.analytics.messages.MessageBuilder;
import com.segment.analytics.messages.PageMessage;
import com.segment.analytics.messages.ScreenMessage;
import com.segment.analytics.messages.TrackMessage;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** Sends the calls of a JSON file with the Java SDK: URL PREFIX WRITE_KEY CALLS_JSON. */
public final class JavaClient {
  /** Enough for one retry, before which the SDK waits up to 30 seconds. */
  private static final long OUTCOME_TIMEOUT_S = 50;

  public static void main(String[] arguments) throws Exception {
    String endpoint = arguments[0] + arguments[1];
    Map<?, ?>[] calls =
        new Gson().fromJson(Files.readString(Path.of(arguments[3])), Map[].class);

    CountDownLatch outcomes = new CountDownLatch(calls.length);
    AtomicInteger delivered = new AtomicInteger();
    Callback callback =
        new Callback() {
          @Override
          public void success(Message message) {
            delivered.incrementAndGet();
            outcomes.countDown();
          }

          @Override
          public void failure(Message message, Throwable error) {
            System.err.println("not delivered: " + error.getMessage());
            outcomes.countDown();
          }
        };
    Analytics analytics =
        Analytics.builder(arguments[2]).endpoint(endpoint).callback(callback).build();
    for (Map<?, ?> call : calls) {
      analytics.enqueue(message(call));
    }
    analytics.flush();
    boolean isSettled = outcomes.await(OUTCOME_TIMEOUT_S, TimeUnit.SECONDS);
    analytics.shutdown();
    System.out.println("delivered " + delivered);
    // The SDK's HTTP client keeps threads for a minute that would hold the process up.
    System.exit(isSettled && delivered.get() == calls.length ? 0 : 1);
  }

  private static MessageBuilder<?, ?> message(Map<?, ?> call) {
    MessageBuilder<?, ?> builder = builder(call);
    if (call.get("anonymousId") != null) {
      builder.anonymousId((String) call.get("anonymousId"));
    }
    if (call.get("userId") != null) {
      builder.userId((String) call.get("userId"));
    }
    if (call.get("context") != null) {
      builder.context(fields(call, "context"));
    }
    return builder;
  }

  private static MessageBuilder<?, ?> builder(Map<?, ?> call) {
    String name = (String) call.get("name");
    switch ((String) call.get("type")) {
      case "track":
        return TrackMessage.builder((String) call.get("event"))
            .properties(fields(call, "properties"));
      case "identify":
        return IdentifyMessage.builder().traits(fields(call, "traits"));
      case "page":
        return PageMessage.builder(name).properties(fields(call, "properties"));
      case "screen":
        return ScreenMessage.builder(name).properties(fields(call, "properties"));
      case "group":
        return GroupMessage.builder((String) call.get("groupId")).traits(fields(call, "traits"));
      case "alias":
        return AliasMessage.builder((String) call.get("previousId"));
      default:
        throw new IllegalArgumentException("unknown type " + call.get("type"));
    }
  }

  @SuppressWarnings("unchecked")
  private static Map<String, ?> fields(Map<?, ?> call, String name) {
    return (Map<String, ?>) call.get(name);
  }
}
