import { createRequire } from 'node:module'
import type { Agent, buildConnector, Dispatcher } from 'undici'

// The two parts of undici that are used, from its own files. The package's front loads fetch, WebSocket, mocks and
// caches besides: three quarters of its modules, and a tenth of the time in which a program starts.

const load = createRequire(import.meta.url)

/** What a dispatcher can do by itself: the package's front adds the rest. */
export type BulkDispatcher = Pick<Dispatcher, 'dispatch' | 'close' | 'destroy'>

export const BulkAgent = load('undici/lib/dispatcher/agent.js') as typeof Agent

export const createConnector = load('undici/lib/core/connect.js') as typeof buildConnector
