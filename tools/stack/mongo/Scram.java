import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import javax.crypto.Mac;
import javax.crypto.SecretKeyFactory;
import javax.crypto.spec.PBEKeySpec;
import javax.crypto.spec.SecretKeySpec;

/** SCRAM-SHA-256 (RFC 5802 and 7677), the server's side, for one user. */
final class Scram {
    static final String MECHANISM = "SCRAM-SHA-256";
    private static final int ITERATIONS = 15_000; // as MongoDB

    private final String user;
    private final byte[] salt = random(28);
    private final byte[] storedKey;
    private final byte[] serverKey;

    Scram(String user, String password) throws GeneralSecurityException {
        this.user = user;
        PBEKeySpec salted = new PBEKeySpec(password.toCharArray(), salt, ITERATIONS, 256);
        byte[] key = SecretKeyFactory.getInstance("PBKDF2WithHmacSHA256").generateSecret(salted).getEncoded();
        storedKey = sha256(hmac(key, "Client Key"));
        serverKey = hmac(key, "Server Key");
    }

    /** The login that a client's first message begins; none where it names another user or is malformed. */
    Optional<Login> start(String message) {
        String[] parts = message.split(",", 3); // flag, empty authorisation identity, the bare message
        if (parts.length < 3) return Optional.empty();
        Map<String, String> fields = fields(parts[2]);
        String name = fields.getOrDefault("n", "").replace("=2C", ",").replace("=3D", "=");
        if (!name.equals(user) || !fields.containsKey("r")) return Optional.empty();
        return Optional.of(new Login(parts[2], fields.get("r")));
    }

    /** One connection's login. */
    final class Login {
        private final String first;
        private final String nonce;
        private boolean succeeded;

        private Login(String first, String clientNonce) {
            this.first = first;
            this.nonce = clientNonce + base64(random(24));
        }

        /** What the client has to answer. */
        String challenge() {
            return "r=" + nonce + ",s=" + base64(salt) + ",i=" + ITERATIONS;
        }

        /** The server's own proof, where the client's last message proves that it knows the password. */
        Optional<String> finish(String message) {
            Map<String, String> fields = fields(message);
            int proofAt = message.lastIndexOf(",p=");
            if (proofAt < 0 || !nonce.equals(fields.get("r"))) return Optional.empty();
            String signed = first + "," + challenge() + "," + message.substring(0, proofAt);
            byte[] key = hmac(storedKey, signed);
            byte[] proof = unbase64(fields.get("p"));
            if (proof.length != key.length) return Optional.empty();
            for (int i = 0; i < key.length; i++) key[i] ^= proof[i];
            succeeded = MessageDigest.isEqual(sha256(key), storedKey);
            return succeeded ? Optional.of("v=" + base64(hmac(serverKey, signed))) : Optional.empty();
        }

        boolean succeeded() {
            return succeeded;
        }
    }

    private static Map<String, String> fields(String message) {
        Map<String, String> fields = new HashMap<>();
        for (String part : message.split(",")) if (part.indexOf('=') == 1) fields.put(part.substring(0, 1), part.substring(2));
        return fields;
    }

    private static byte[] random(int length) {
        byte[] bytes = new byte[length];
        new SecureRandom().nextBytes(bytes);
        return bytes;
    }

    private static byte[] sha256(byte[] bytes) {
        try {
            return MessageDigest.getInstance("SHA-256").digest(bytes);
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException(error); // every Java has it
        }
    }

    private static byte[] hmac(byte[] key, String text) {
        try {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key, "HmacSHA256"));
            return mac.doFinal(text.getBytes(StandardCharsets.UTF_8));
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException(error); // every Java has it
        }
    }

    private static String base64(byte[] bytes) {
        return Base64.getEncoder().encodeToString(bytes);
    }

    private static byte[] unbase64(String text) {
        try {
            return Base64.getDecoder().decode(text);
        } catch (IllegalArgumentException error) {
            return new byte[0];
        }
    }
}
