import { flushCompileCache } from 'node:module'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
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
  tuneCompiler()
  if (name === 'primary') return (await loadPrimary()).startPrimary(config, deps)
  return (await loadEdge()).startEdge(config, deps)
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

const loadPrimary = () => import('../primary/main.ts').then(tidied)
const loadEdge = () => import('../edge/main.ts').then(tidied)

/** What is due once all is loaded, and would answer nobody for a while if it came when the program serves. */
function tidied<Loaded>(loaded: Loaded): Loaded {
  // A second or more, at a first start.
  flushCompileCache()
  // Loading leaves twice as much garbage as code, and V8 would let the heap grow by what is there.
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  collect()
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
