import de.bwaldvogel.mongo.backend.KeyValue;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.bson.BsonDecoder;
import de.bwaldvogel.mongo.wire.bson.BsonEncoder;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import java.nio.ByteBuffer;
import org.h2.mvstore.DataUtils;
import org.h2.mvstore.WriteBuffer;
import org.h2.mvstore.type.BasicDataType;
import org.h2.mvstore.type.ObjectDataType;

/**
 * How documents and the keys of unique indexes lie in the file: as BSON, and as text where they are text. Java's serialisation,
 * which the store would use for both, takes several times the space and the time.
 */
final class Stored {
    private Stored() {}

    /** A document, as BSON. */
    static final class Documents extends BasicDataType<Document> {
        @Override
        public int getMemory(Document document) {
            return 64 + 96 * document.size(); // about, which is what the store needs to split its pages
        }

        @Override
        public void write(WriteBuffer buffer, Document document) {
            ByteBuf bson = Unpooled.buffer(512);
            BsonEncoder.encodeDocument(document, bson);
            buffer.put(bson.nioBuffer());
        }

        @Override
        public Document read(ByteBuffer buffer) {
            ByteBuf bson = Unpooled.wrappedBuffer(buffer.slice());
            Document document = BsonDecoder.decodeBson(bson);
            buffer.position(buffer.position() + bson.readerIndex());
            return document;
        }

        @Override
        public Document[] createStorage(int size) {
            return new Document[size];
        }
    }

    /** The key of a unique index: one or more values. Keys that are all text come first, in the order of their text. */
    static final class Keys extends BasicDataType<KeyValue> {
        private static final byte OTHER = 0; // else how many texts there are
        private final ObjectDataType others = new ObjectDataType();

        private static boolean isText(KeyValue key) {
            for (int i = 0; i < key.size(); i++) if (!(key.get(i) instanceof String)) return false;
            return key.size() < Byte.MAX_VALUE;
        }

        @Override
        public int compare(KeyValue one, KeyValue other) {
            boolean text = isText(one);
            if (text != isText(other)) return text ? -1 : 1;
            if (!text) return others.compare(one, other);
            for (int i = 0; i < Math.min(one.size(), other.size()); i++) {
                int order = ((String) one.get(i)).compareTo((String) other.get(i));
                if (order != 0) return order;
            }
            return Integer.compare(one.size(), other.size());
        }

        @Override
        public int getMemory(KeyValue key) {
            return 64 + 96 * key.size();
        }

        @Override
        public void write(WriteBuffer buffer, KeyValue key) {
            if (!isText(key)) {
                buffer.put(OTHER);
                others.write(buffer, key);
                return;
            }
            buffer.put((byte) key.size());
            for (Object value : key) {
                String text = (String) value;
                buffer.putVarInt(text.length()).putStringData(text, text.length());
            }
        }

        @Override
        public KeyValue read(ByteBuffer buffer) {
            byte texts = buffer.get();
            if (texts == OTHER) return (KeyValue) others.read(buffer);
            Object[] values = new Object[texts];
            for (int i = 0; i < texts; i++) values[i] = DataUtils.readString(buffer);
            return new KeyValue(values);
        }

        @Override
        public KeyValue[] createStorage(int size) {
            return new KeyValue[size];
        }
    }
}
