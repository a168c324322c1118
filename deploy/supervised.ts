// A program as the child of a supervisor: `supervised.ts primary|edge`.
import { preload, startProgram, type ProgramName } from './programs.ts'
import { runSupervised } from './run-supervised.ts'

const name: ProgramName = process.argv[2] === 'edge' ? 'edge' : 'primary'
runSupervised(name, startProgram)
preload(name)
