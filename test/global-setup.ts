import { serverVariable, startTestServer, type TestServer } from './kit/postgres-server.ts'

let server: TestServer | undefined

/** One PostgreSQL for the whole run; each test gets a database of its own from its template. */
export async function globalSetup(): Promise<void> {
  server = await startTestServer()
  process.env[serverVariable] = JSON.stringify(server.address)
}

export async function globalTeardown(): Promise<void> {
  await server?.stop()
}
