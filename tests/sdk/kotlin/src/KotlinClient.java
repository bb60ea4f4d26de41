import com.segment.analytics.kotlin.core.AliasEvent;
import com.segment.analytics.kotlin.core.Analytics;
import com.segment.analytics.kotlin.core.BaseEvent;
import com.segment.analytics.kotlin.core.Configuration;
import com.segment.analytics.kotlin.core.RequestFactory;
import com.segment.analytics.kotlin.core.Settings;
import com.segment.analytics.kotlin.core.Storage;
import com.segment.analytics.kotlin.core.StorageProvider;
import com.segment.analytics.kotlin.core.Telemetry;
import com.segment.analytics.kotlin.core.compat.ConfigurationBuilder;
import com.segment.analytics.kotlin.core.platform.policies.FlushPolicy;
import com.segment.analytics.kotlin.core.platform.policies.FrequencyFlushPolicy;
import com.segment.analytics.kotlin.core.utilities.InMemoryEventStream;
import com.segment.analytics.kotlin.core.utilities.InMemoryPrefs;
import com.segment.analytics.kotlin.core.utilities.StorageImpl;
import java.net.HttpURLConnection;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import kotlin.jvm.functions.Function1;
import kotlinx.coroutines.CoroutineDispatcher;
import kotlinx.serialization.json.Json;
import kotlinx.serialization.json.JsonArray;
import kotlinx.serialization.json.JsonElement;
import kotlinx.serialization.json.JsonElementKt;
import kotlinx.serialization.json.JsonObject;
import okhttp3.Interceptor;
import okhttp3.OkHttpClient;
import okhttp3.Response;
import sovran.kotlin.Store;

/** Sends the calls of a JSON file with the Kotlin SDK: URL PREFIX WRITE_KEY CALLS_JSON. */
public final class KotlinClient {
  private static final long OUTCOME_TIMEOUT_S = 50;
  private static final long FLUSH_INTERVAL_MS = 500;
  private static final JsonObject NOTHING = new JsonObject(Map.of());

  public static void main(String[] arguments) throws Exception {
    URI server = URI.create(arguments[0]);
    String apiHost = server.getAuthority() + server.getPath() + arguments[1];
    JsonArray calls =
        JsonElementKt.getJsonArray(
            Json.Default.parseToJsonElement(Files.readString(Path.of(arguments[3]))));

    // By default the SDK logs to the standard output.
    Analytics.Companion.setLogger(log -> System.err.println(log.getMessage()));
    // Metrics about the SDK itself would go to its makers.
    Telemetry.INSTANCE.setEnable(false);
    Requests requests = new Requests(server);
    Outbox outbox = new Outbox();
    Written written = new Written(calls.size());
    Configuration configuration = new ConfigurationBuilder(arguments[2]).build();
    configuration.setApplication("segsrv");
    configuration.setApiHost(apiHost);
    configuration.setCdnHost(apiHost);
    configuration.setDefaultSettings(settings(arguments[2], apiHost));
    configuration.setRequestFactory(requests);
    configuration.setStorageProvider(outbox);
    configuration.setFlushPolicies(List.of(written));
    Analytics analytics = new Analytics(configuration);
    for (JsonElement call : calls) {
      send(analytics, JsonElementKt.getJsonObject(call));
    }

    boolean isSettled = written.await();
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(OUTCOME_TIMEOUT_S);
    while (requests.lastStatus() == 0 && System.nanoTime() < deadline) {
      Thread.sleep(10);
    }
    if (requests.lastStatus() != 200) {
      // The SDK's own timer, only with a shorter interval: it sends again what is still there. It
      // flushes at once, so it must not start while a batch that was taken is being removed.
      new FrequencyFlushPolicy(FLUSH_INTERVAL_MS).schedule(analytics);
    }
    while (!outbox.isEmpty()) {
      if (System.nanoTime() > deadline) {
        isSettled = false;
        break;
      }
      Thread.sleep(10);
    }
    analytics.shutdown(true);
    boolean isDelivered = isSettled && requests.lastStatus() == 200;
    System.out.println("delivered " + (isDelivered ? calls.size() : 0));
    System.exit(isDelivered ? 0 : 1);
  }

  /**
   * What the SDK uses while it can't fetch a project's settings. Those built into it name the
   * makers' host, and would send the events there.
   */
  private static Settings settings(String writeKey, String apiHost) {
    JsonElement key = JsonElementKt.JsonPrimitive(writeKey);
    JsonElement host = JsonElementKt.JsonPrimitive(apiHost);
    JsonObject segment = new JsonObject(Map.of("apiKey", key, "apiHost", host));
    JsonObject integrations = new JsonObject(Map.of("Segment.io", segment));
    return new Settings(integrations, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING);
  }

  private static void send(Analytics analytics, JsonObject call) {
    Function1<BaseEvent, BaseEvent> enrichment = event -> enriched(event, call);
    switch (text(call, "type")) {
      case "track":
        analytics.track(text(call, "event"), fields(call, "properties"), enrichment);
        break;
      case "identify":
        analytics.identify(text(call, "userId"), fields(call, "traits"), enrichment);
        break;
      case "screen":
        analytics.screen(text(call, "name"), fields(call, "properties"), "", enrichment);
        break;
      case "group":
        analytics.group(text(call, "groupId"), fields(call, "traits"), enrichment);
        break;
      case "alias":
        analytics.alias(text(call, "userId"), enrichment);
        break;
      default:
        throw new IllegalArgumentException("no such call: " + text(call, "type"));
    }
  }

  /** The SDK keeps one user for all its events; the calls of the file have one each. */
  private static BaseEvent enriched(BaseEvent event, JsonObject call) {
    if (call.containsKey("anonymousId")) {
      event.setAnonymousId(text(call, "anonymousId"));
    }
    event.setUserId(text(call, "userId"));
    if (event instanceof AliasEvent) {
      ((AliasEvent) event).setPreviousId(text(call, "previousId"));
    }
    Map<String, JsonElement> context = new HashMap<>(fields(call, "context"));
    context.putAll(event.getContext());
    event.setContext(new JsonObject(context));
    return event;
  }

  private static String text(JsonObject call, String name) {
    return JsonElementKt.getJsonPrimitive(call.get(name)).getContent();
  }

  private static JsonObject fields(JsonObject call, String name) {
    return call.containsKey(name) ? JsonElementKt.getJsonObject(call.get(name)) : NOTHING;
  }

  /** The SDK's hook for other transports: the scheme of the URL given here instead of https. */
  private static final class Requests extends RequestFactory {
    private final URI server;
    private final AtomicInteger lastStatus;

    Requests(URI server) {
      this(server, new AtomicInteger());
    }

    private Requests(URI server, AtomicInteger lastStatus) {
      super(new OkHttpClient.Builder().addInterceptor(noting(lastStatus)).build());
      this.server = server;
      this.lastStatus = lastStatus;
    }

    /** The status of the last upload: the SDK itself tells an app only what failed. */
    int lastStatus() {
      return lastStatus.get();
    }

    @Override
    public HttpURLConnection openConnection(String url) {
      URI asked = URI.create(url);
      if (!server.getAuthority().equals(asked.getAuthority())) {
        throw new IllegalArgumentException("not the server under test: " + url);
      }
      return super.openConnection(url.replaceFirst("^https", server.getScheme()));
    }

    private static Interceptor noting(AtomicInteger lastStatus) {
      return chain -> {
        Response response = chain.proceed(chain.request());
        if (chain.request().method().equals("POST")) {
          lastStatus.set(response.code());
        }
        return response;
      };
    }
  }

  /** The SDK's own storage, in memory, and whether any event is still in it. */
  private static final class Outbox implements StorageProvider {
    private final InMemoryEventStream events = new InMemoryEventStream();

    boolean isEmpty() {
      return events.read().isEmpty();
    }

    @Override
    public Storage createStorage(Object... parameters) {
      Analytics analytics = (Analytics) parameters[0];
      return new StorageImpl(
          new InMemoryPrefs(),
          events,
          analytics.getStore(),
          analytics.getConfiguration().getWriteKey(),
          "index",
          analytics.getFileIODispatcher());
    }

    @Override
    public Storage getStorage(
        Analytics analytics,
        Store store,
        String writeKey,
        CoroutineDispatcher dispatcher,
        Object application) {
      return createStorage(analytics, store, writeKey, dispatcher, application);
    }
  }

  /** Flushes once, as soon as all calls are written. */
  private static final class Written implements FlushPolicy {
    private final CountDownLatch missing;

    Written(int count) {
      missing = new CountDownLatch(count);
    }

    boolean await() throws InterruptedException {
      return missing.await(OUTCOME_TIMEOUT_S, TimeUnit.SECONDS);
    }

    @Override
    public void updateState(BaseEvent event) {
      missing.countDown();
    }

    @Override
    public boolean shouldFlush() {
      return missing.getCount() == 0;
    }

    @Override
    public void reset() {}

    @Override
    public void schedule(Analytics analytics) {}

    @Override
    public void unschedule() {}
  }
}
