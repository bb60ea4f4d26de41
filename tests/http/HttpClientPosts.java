import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.Arrays;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;

/** Posts an event for each id, half of them in turn and half at once; prints the statuses. */
class HttpClientPosts {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        String[] ids = Arrays.copyOfRange(args, 2, args.length);
        for (int i = 0; i < ids.length / 2; i++) {
            var answer = client.send(post(args, ids[i]), BodyHandlers.ofString());
            System.out.println(answer.statusCode());
        }
        Stream.of(Arrays.copyOfRange(ids, ids.length / 2, ids.length))
                .map(id -> client.sendAsync(post(args, id), BodyHandlers.ofString()))
                .toList()
                .stream()
                .map(CompletableFuture::join)
                .forEach(answer -> System.out.println(answer.statusCode()));
    }

    static HttpRequest post(String[] args, String id) {
        String body = "{\"messageId\":\"" + id + "\",\"userId\":\"u1\"}";
        return HttpRequest.newBuilder(URI.create(args[0]))
                .header("X-Write-Key", args[1])
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
    }
}
