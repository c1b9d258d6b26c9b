// Client of the server with the HTTP client of the JDK, in its default configuration.
// `java LearnTest.java URL` teaches the model "jvm" 211 samples, and checks each answer.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

public class LearnTest {
    private static int step = 0;

    public static void main(String[] arguments) throws Exception {
        URI url = URI.create(arguments[0] + "/learn");
        HttpClient client = HttpClient.newHttpClient();
        check(client.version() == HttpClient.Version.HTTP_2, "the client does not prefer HTTP/2");

        for (int i = 0; i < 6; i++) {  // on one connection
            checkSteps(send(client, url, "application/json", BodyPublishers.ofString(sample(i))), 1);
        }
        String lines = IntStream.range(0, 100).mapToObj(i -> sample(i) + "\n").collect(Collectors.joining());
        checkSteps(send(client, url, "application/x-ndjson", BodyPublishers.ofString(lines)), 100);
        BodyPublisher stream = BodyPublishers.ofByteArrays(  // of unknown length: in chunks
            lines.lines().map(line -> (line + "\n").getBytes()).collect(Collectors.toList()));
        checkSteps(send(client, url, "application/x-ndjson", stream), 100);

        List<CompletableFuture<HttpResponse<String>>> running = new ArrayList<>();  // on several connections
        for (int i = 0; i < 5; i++) {
            HttpRequest request = request(url, "application/json", BodyPublishers.ofString(sample(i)));
            running.add(client.sendAsync(request, BodyHandlers.ofString()));
        }
        for (CompletableFuture<HttpResponse<String>> answer : running) {
            check(answer.get().statusCode() == 200, answer.get().body());
            step++;
        }
        System.out.println("learned " + step + " samples");
    }

    private static String sample(int i) {
        return "{\"x\": {\"a\": " + i + "}, \"y\": \"" + (i % 2 == 0 ? "cat" : "dog") + "\", \"model\": \"jvm\"}";
    }

    private static HttpRequest request(URI url, String type, BodyPublisher body) {
        return HttpRequest.newBuilder(url).timeout(Duration.ofSeconds(60)).header("Content-Type", type).POST(body).build();
    }

    private static String send(HttpClient client, URI url, String type, BodyPublisher body) throws Exception {
        HttpResponse<String> answer = client.send(request(url, type, body), BodyHandlers.ofString());
        check(answer.statusCode() == 200, answer.statusCode() + ": " + answer.body());
        return answer.body();
    }

    private static void checkSteps(String body, int count) {
        List<String> answers = body.lines().collect(Collectors.toList());
        check(answers.size() == count, answers.size() + " answers to " + count + " samples");
        for (String answer : answers) {
            step++;
            check(answer.contains("\"step\":" + step + ","), "step " + step + " is missing: " + answer);
        }
    }

    private static void check(boolean holds, String message) {
        if (!holds) {
            throw new IllegalStateException(message);
        }
    }
}
