import { flushCompileCache } from 'node:module'
import { setFlagsFromString } from 'node:v8'
import { edgeSection } from '../edge/config.ts'
import { primarySection } from '../primary/config.ts'
import { loadConfig, type ConfigOf, type Fallbacks, type FileCheck } from '../shared/config/load.ts'
import type { Logger } from '../shared/observability/log.ts'
import type { Running } from '../shared/observability/program.ts'

/** The parts of the one configuration file. Each program checks the whole and uses its part. */
export const sections = [primarySection, edgeSection] as const

export type OutportConfig = ConfigOf<typeof sections>

export type ProgramName = 'primary' | 'edge'

export type StartProgram = (
  name: ProgramName,
  config: OutportConfig,
  deps: { readonly log: Logger; readonly signal: AbortSignal },
) => Promise<Running>

/** Starts a program; its code is loaded only now, unless `preload` was called before. */
export const startProgram: StartProgram = async (name, config, deps) => {
  const start = await (name === 'primary'
    ? loadPrimary().then(({ startPrimary }) => startPrimary)
    : loadEdge().then(({ startEdge }) => startEdge))
  // Only now: code that was compiled and kept under other flags is thrown away.
  tuneCompiler()
  return start(config, deps)
}

/**
 * A request goes through hundreds of small functions, Node's and ours. With V8's own limits of what it inlines a hot
 * one costs a seventh more CPU. And V8 forgets code that was not used for some collections: a rack of nodes that comes
 * after a few quiet seconds would wait while it is compiled again.
 */
function tuneCompiler(): void {
  setFlagsFromString('--no-flush-bytecode')
  setFlagsFromString('--max-inlined-bytecode-size=2000')
  setFlagsFromString('--max-inlined-bytecode-size-cumulative=5000')
}

/** Ends what a primary that was killed left running. No primary may run on this data. */
export async function stopLeftPrimary(config: OutportConfig): Promise<void> {
  await (await loadPrimary()).stopLeftBy(config)
}

/** Loads a program's code, so that it starts at once when its configuration is there. What fails, fails again at its start. */
export function preload(name: ProgramName): void {
  const loading: Promise<unknown> = name === 'primary' ? loadPrimary() : loadEdge()
  loading.catch(() => undefined)
}

const loadPrimary = () => import('../primary/main.ts').then(writeCompiled)
const loadEdge = () => import('../edge/main.ts').then(writeCompiled)

/** A first start writes what it compiled before it serves: that takes a second or more, in which it would answer nobody. */
function writeCompiled<Loaded>(loaded: Loaded): Loaded {
  flushCompileCache()
  return loaded
}

interface LoadOptions {
  /** The configuration file; else the one that `OUTPORT_CONFIG` names, if any. */
  readonly config: string | undefined
  /** What the command line sets, of the shape of the file. */
  readonly flags?: unknown
  readonly files?: FileCheck | undefined
  readonly fallbacks?: Fallbacks | undefined
}

/**
 * Loads the configuration of a command line.
 * @throws ConfigError with every problem
 */
export function loadOutportConfig({ config, flags, files, fallbacks }: LoadOptions): OutportConfig {
  return loadConfig({
    sections,
    file: config ?? (process.env.OUTPORT_CONFIG || undefined),
    env: process.env,
    flags,
    ...(files !== undefined && { files }),
    ...(fallbacks !== undefined && { fallbacks }),
  })
}
