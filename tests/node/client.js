// A client in another language: loads protos/ at run time, generates once, and prints what it got as one JSON object.
//
//     node client.js HOST:PORT FOLDER-OF-PROTOS REQUEST-AS-JSON
//
// A refused request prints the name of its status, and what the server says.
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const [address, protos, request] = process.argv.slice(2);
const definition = loadSync("sybil_engine/rpc/v1/generation_service.proto", {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
});
const { GenerationService } = grpc.loadPackageDefinition(definition).sybil_engine.rpc.v1;
const client = new GenerationService(address, grpc.credentials.createInsecure());

async function describe() {
  return new Promise((resolve, reject) =>
    client.DescribePair({}, (error, answer) => (error ? reject(error) : resolve(answer))),
  );
}

async function generate() {
  const got = { text: "", token_ids: [], completion: null };
  for await (const response of client.Generate(JSON.parse(request))) {
    got.text += response.text;
    got.token_ids.push(...response.tokens.map((token) => token.token_id));
    got.completion = response.completion ?? got.completion;
  }
  return got;
}

try {
  const { target } = await describe();
  console.log(JSON.stringify({ target: target.model_id, ...(await generate()) }));
} catch (error) {
  console.log(JSON.stringify({ status: grpc.status[error.code], details: error.details }));
} finally {
  client.close();
}
