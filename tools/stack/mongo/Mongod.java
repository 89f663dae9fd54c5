import de.bwaldvogel.mongo.MongoCollection;
import de.bwaldvogel.mongo.MongoDatabase;
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.CollectionOptions;
import de.bwaldvogel.mongo.backend.Index;
import de.bwaldvogel.mongo.backend.IndexKey;
import de.bwaldvogel.mongo.backend.KeyValue;
import de.bwaldvogel.mongo.backend.QueryResult;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.backend.h2.H2Database;
import de.bwaldvogel.mongo.bson.BinData;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.exception.MongoServerError;
import de.bwaldvogel.mongo.wire.message.MongoQuery;
import io.netty.channel.Channel;
import java.nio.charset.StandardCharsets;
import java.util.Collection;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.h2.mvstore.MVMap;
import org.h2.mvstore.MVStore;
import org.h2.mvstore.MVStoreException;

/**
 * A server that speaks MongoDB's protocol, for a machine without MongoDB: mongo-java-server on a file, and what that lacks:
 * one user who must log in, `hello`, right counts of inserts, and writes that a kill cannot take back or cut in two.
 *
 * <p>Usage: java Mongod FILE PORT, with the user in MONGO_USER and MONGO_PASSWORD (as SASLprep leaves it). The user is not
 * kept in the file: another password counts from the next start.
 */
public final class Mongod extends H2Backend {
    private static final String USERS_DATABASE = "admin";

    private final MVStore store;
    private final Scram scram;
    private final Map<Channel, Scram.Login> logins = new ConcurrentHashMap<>();

    private Mongod(MVStore store, Scram scram) {
        super(store);
        this.store = store;
        this.scram = scram;
        // The oldest version that PyMongo 4.20 talks to: a claim that lets it talk, not a promise of that version's features.
        version(new MongoVersion() {
            @Override
            public List<Integer> getVersionArray() {
                return List.of(4, 4, 0);
            }

            @Override
            public int getWireVersion() {
                return 9;
            }
        });
    }

    public static void main(String[] arguments) {
        try {
            // Committed after each command and never within one: a document without its entries in the indexes, as a kill
            // would leave it, could neither be found nor stored again.
            MVStore store = new MVStore.Builder()
                    .fileName(arguments[0])
                    .autoCommitDisabled()
                    .autoCommitBufferSize(0)
                    .keysPerPage(12) // a page is written whole for one new document on it
                    .cacheSize(64) // MB
                    .open();
            store.setRetentionTime(0); // what a commit freed may be written over once that commit is on the disk
            Scram scram = new Scram(System.getenv("MONGO_USER"), System.getenv("MONGO_PASSWORD"));
            MongoServer server = new MongoServer(new Mongod(store, scram));
            server.bind("127.0.0.1", Integer.parseInt(arguments[1]));
            Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
            System.out.println("serves MongoDB's protocol on port " + arguments[1]);
        } catch (Exception error) {
            error.printStackTrace();
            System.exit(1); // threads of the server may run already
        }
    }

    /** Called by the superclass's constructor too, hence the store is taken from there. */
    @Override
    protected MongoDatabase openOrCreateDatabase(String name) {
        return new Database(name);
    }

    @Override
    public Document handleCommand(Channel channel, String database, String command, Document query) {
        switch (command.toLowerCase(Locale.ROOT)) {
            case "hello", "ismaster":
                return hello(channel, database, query);
            case "ping":
                return ok();
            case "buildinfo":
                return super.handleCommand(channel, database, command, query);
            case "saslstart":
                return startLogin(channel, database, query);
            case "saslcontinue":
                return finishLogin(channel, query);
            default:
                requireLogin(channel, command);
                return perform(channel, database, command, query);
        }
    }

    /** A query of the protocol before commands, which MongoDB has not taken since 5.1, and which would ask for no login. */
    @Override
    public QueryResult handleQuery(MongoQuery query) {
        throw new MongoServerError(352, "UnsupportedOpQueryCommand", "Unsupported OP_QUERY: use a newer driver");
    }

    @Override
    public void handleClose(Channel channel) {
        logins.remove(channel);
        super.handleClose(channel);
    }

    /** One command at a time, whole on the disk before its reply. */
    private synchronized Document perform(Channel channel, String database, String command, Document query) {
        if (query.containsKey("startTransaction")) // performed outside of any, it could not be taken back
            throw new MongoServerError(20, "IllegalOperation", "Transactions are only allowed on a replica set");
        Document reply = super.handleCommand(channel, database, command, query);
        if (store.hasUnsavedChanges()) save();
        if (command.equals("insert")) countInserted(query, reply);
        return reply;
    }

    private void save() {
        try {
            store.commit();
            store.sync();
        } catch (MVStoreException error) {
            // A full disk, say. The store takes nothing more, so this process ends, and whoever watches it starts another.
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
        }
    }

    /** Refused documents are counted as inserted by mongo-java-server. */
    private static void countInserted(Document query, Document reply) {
        if (!(reply.get("writeErrors") instanceof List<?> errors) || errors.isEmpty()) return;
        int documents = ((Collection<?>) query.get("documents")).size();
        boolean ordered = !Boolean.FALSE.equals(query.get("ordered"));
        reply.put("n", ordered ? ((Document) errors.get(0)).get("index") : documents - errors.size());
    }

    private Document hello(Channel channel, String database, Document query) {
        Document reply = super.handleCommand(channel, database, "ismaster", query);
        reply.append("isWritablePrimary", true).append("helloOk", true).append("readOnly", false);
        if (query.containsKey("saslSupportedMechs")) reply.append("saslSupportedMechs", List.of(Scram.MECHANISM));
        return reply;
    }

    private void requireLogin(Channel channel, String command) {
        Scram.Login login = logins.get(channel);
        if (login == null || !login.succeeded())
            throw new MongoServerError(13, "Unauthorized", "Command " + command + " requires authentication");
    }

    private Document startLogin(Channel channel, String database, Document query) {
        logins.remove(channel);
        if (!database.equals(USERS_DATABASE) || !Scram.MECHANISM.equals(query.get("mechanism"))) throw refused();
        Scram.Login login = scram.start(payload(query)).orElseThrow(Mongod::refused);
        logins.put(channel, login);
        return step(false, login.challenge());
    }

    private Document finishLogin(Channel channel, Document query) {
        Scram.Login login = logins.get(channel);
        if (login == null) throw refused();
        if (login.succeeded()) return step(true, ""); // some drivers ask once more
        return step(true, login.finish(payload(query)).orElseThrow(Mongod::refused));
    }

    private static MongoServerError refused() {
        return new MongoServerError(18, "AuthenticationFailed", "Authentication failed.");
    }

    private static String payload(Document query) {
        Object payload = query.get("payload");
        byte[] bytes = payload instanceof BinData data ? data.getData() : (byte[]) payload;
        return new String(bytes, StandardCharsets.UTF_8);
    }

    private static Document step(boolean done, String payload) {
        BinData data = new BinData(payload.getBytes(StandardCharsets.UTF_8));
        return ok().append("conversationId", 1).append("done", done).append("payload", data);
    }

    private static Document ok() {
        return new Document("ok", 1.0);
    }

    /** A map that is open already is what the superclass gets when it opens it: so it is opened here first, with its types. */
    private final class Database extends H2Database {
        Database(String name) {
            super(name, getMvStore(), getCursorRegistry());
        }

        @Override
        protected MongoCollection<Object> openOrCreateCollection(String name, CollectionOptions options) {
            getMvStore().openMap("databases." + getFullCollectionNamespace(name),
                    new MVMap.Builder<Object, Document>().valueType(new Stored.Documents()));
            return super.openOrCreateCollection(name, options);
        }

        @Override
        protected Index<Object> openOrCreateUniqueIndex(String collection, String name, List<IndexKey> keys, boolean sparse) {
            getMvStore().openMap(getFullCollectionNamespace(collection) + "._index_" + name,
                    new MVMap.Builder<KeyValue, Object>().keyType(new Stored.Keys()));
            return super.openOrCreateUniqueIndex(collection, name, keys, sparse);
        }
    }
}
